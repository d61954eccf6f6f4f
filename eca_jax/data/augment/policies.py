"""RandAugment, AutoAugment and 3-Augment as timm has them, TrivialAugment as torchvision has it, colour jitter.

timm's draws are taken in timm's order, so that equal draws give equal pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from eca_jax.data.augment import pixels
from eca_jax.data.augment.levels import LEVELLED, TOP_LEVEL
from eca_jax.data.augment.operation import pick, uniform
from eca_jax.data.augment.pixels import Moving


@dataclass(frozen=True)
class Magnitude:
    """Which level an operation is applied at.

    Attributes:
      deviation: of a normal distribution around the level asked for; infinite: uniform from 0 to that level.
      top: the level is clipped to 0..top.
    """

    deviation: float = 0.0
    top: float = TOP_LEVEL

    def __call__(self, level: float, rng: np.random.Generator) -> float:
        """The level of one application."""
        if math.isinf(self.deviation):
            level = uniform(rng, 0, level)
        elif self.deviation > 0:
            level = level + self.deviation * rng.standard_normal()
        return max(0.0, min(level, self.top))


@dataclass(frozen=True)
class RandAugment:
    """E. Cubuk et al. 2019 (arXiv:1909.13719) as timm applies it.

    Attributes:
      operations: names of `LEVELLED` to choose from.
      how: filter and fill of those that move pixels.
      level: 0 to 10, or beyond where `magnitude.top` allows it.
      layers: operations an image; the same may come twice, unless `weights` are given.
      probability: with which each of them is applied.
      magnitude: the level's spread.
      weights: probabilities of the operations; by default all equal.
    """

    operations: tuple[str, ...]
    how: Moving
    level: float = TOP_LEVEL
    layers: int = 2
    probability: float = 0.5
    magnitude: Magnitude = Magnitude()
    weights: tuple[float, ...] | None = None
    name: str = "rand_augment"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for choice in self.choose(rng):
            image = _levelled(image, self.operations[choice], self.probability, self.level, self, rng)
        return image

    def choose(self, rng: np.random.Generator) -> list[int]:
        """Which operations one image gets."""
        if self.weights is None:
            return [pick(rng, len(self.operations)) for _ in range(self.layers)]
        left = np.asarray(self.weights, np.float64)
        chosen = []
        for _ in range(self.layers):
            chosen.append(int(np.searchsorted(np.cumsum(left), rng.random() * left.sum(), side="right")))
            left[chosen[-1]] = 0
        return chosen


@dataclass(frozen=True)
class AutoAugment:
    """E. Cubuk et al. 2018 (arXiv:1805.09501) as timm applies it: one of `policy`, its operations one after the other.

    Attributes:
      policy: sequences of (name in `LEVELLED`, probability, level).
      how, magnitude: as for `RandAugment`.
    """

    policy: tuple[tuple[tuple[str, float, float], ...], ...]
    how: Moving
    magnitude: Magnitude = Magnitude()
    name: str = "auto_augment"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for operation, probability, level in self.policy[pick(rng, len(self.policy))]:
            image = _levelled(image, operation, probability, level, self, rng)
        return image


def _levelled(
    image: Image.Image,
    operation: str,
    probability: float,
    level: float,
    policy: RandAugment | AutoAugment,
    rng: np.random.Generator,
) -> Image.Image:
    if probability < 1 and rng.random() > probability:
        return image
    return LEVELLED[operation](image, policy.magnitude(level, rng), policy.how, rng)


_BINS = 31


def _evenly(top: float) -> tuple[float, ...]:
    """From 0 to `top`. PyTorch's linspace has them in float32: 16 pixels are 15 there on some processors."""
    return tuple(top * number / (_BINS - 1) for number in range(_BINS))


@dataclass(frozen=True)
class TrivialAugmentWide:
    """S. Müller and F. Hutter 2021 (arXiv:2103.10158) as torchvision applies it: one operation at a random strength.

    Attributes:
      how: filter and fill; torchvision's recipes leave the fill black.
    """

    how: Moving
    name: str = "trivial_augment"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        names = tuple(_TRIVIAL)
        operation = names[pick(rng, len(names))]
        strengths, signed = _TRIVIAL[operation]
        strength = strengths[pick(rng, len(strengths))] if strengths else 0.0
        if signed and rng.random() < 0.5:
            strength = -strength
        return self.apply(image, operation, strength, rng)

    def apply(self, image: Image.Image, operation: str, strength: float, rng: np.random.Generator) -> Image.Image:
        """torchvision's `_apply_op`: the operation by its name there."""
        match operation:
            case "ShearX" | "ShearY":
                angle = math.radians(math.degrees(math.atan(strength)))  # to the same last bit
                across = operation == "ShearX"
                factor = math.tan(angle) if across else math.sin(angle) / math.cos(angle)
                return self.how.affine(image, (1, factor, 0, 0, 1, 0) if across else (1, 0, 0, factor, 1, 0), rng)
            case "TranslateX":
                return self.how.affine(image, (1, 0, -int(strength), 0, 1, 0), rng)
            case "TranslateY":
                return self.how.affine(image, (1, 0, 0, 0, 1, -int(strength)), rng)
            case "Rotate":
                return self.how.rotate(image, strength, rng)
            case "Posterize":
                return pixels.posterize(image, int(strength))
            case "Solarize":
                return pixels.solarize(image, strength)
            case "AutoContrast":
                return pixels.auto_contrast(image)
            case "Equalize":
                return pixels.equalize(image)
            case "Brightness" | "Color" | "Contrast" | "Sharpness":
                return getattr(pixels, operation.lower())(image, 1.0 + strength)
        return image  # "Identity"


# Each operation's strengths, and whether half of them are negative.
_TRIVIAL: dict[str, tuple[tuple[float, ...], bool]] = {
    "Identity": ((), False),
    "ShearX": (_evenly(0.99), True),
    "ShearY": (_evenly(0.99), True),
    "TranslateX": (_evenly(32.0), True),
    "TranslateY": (_evenly(32.0), True),
    "Rotate": (_evenly(135.0), True),
    "Brightness": (_evenly(0.99), True),
    "Color": (_evenly(0.99), True),
    "Contrast": (_evenly(0.99), True),
    "Sharpness": (_evenly(0.99), True),
    "Posterize": (tuple(8 - round(index / 5) for index in range(_BINS)), False),
    "Solarize": (_evenly(255.0)[::-1], False),
    "AutoContrast": ((), False),
    "Equalize": ((), False),
}


@dataclass(frozen=True)
class ColorJitter:
    """torchvision's `ColorJitter` with one strength for brightness, contrast and saturation, in random order, no hue.

    Attributes:
      strength: each factor is uniform in [1 - strength, 1 + strength], not below 0.
    """

    strength: float
    name: str = "color_jitter"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        order, factors = self.draw(rng)
        operations = (pixels.brightness, pixels.contrast, pixels.color)
        for number in order:
            image = operations[number](image, factors[number])
        return image

    def draw(self, rng: np.random.Generator) -> tuple[list[int], list[float]]:
        """The order of brightness (0), contrast (1) and saturation (2), and their factors."""
        order = np.argsort(rng.random(3)).tolist()
        low, high = max(0.0, 1.0 - self.strength), 1.0 + self.strength
        return order, [uniform(rng, low, high) for _ in range(3)]
