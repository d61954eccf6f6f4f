"""timm's operations by name: what a level (magnitude) from 0 to 10 means to each of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from eca_jax.data.augment import pixels
from eca_jax.data.augment.operation import uniform
from eca_jax.data.augment.pixels import Moving

TOP_LEVEL = 10.0


@dataclass(frozen=True)
class Levelled:
    """An operation that takes a level.

    Attributes:
      apply: (image, argument, how pixels are moved, generator) -> image.
      argument: of the level as a fraction of the top one, negative half of the time where `signed`.
      signed: see `argument`.
    """

    apply: Callable[[Image.Image, float, Moving, np.random.Generator], Image.Image]
    argument: Callable[[float], float] = float
    signed: bool = False

    def __call__(self, image: Image.Image, level: float, how: Moving, rng: np.random.Generator) -> Image.Image:
        """Applies the operation at `level`; draws the sign, then the filter, then what else `apply` draws."""
        fraction = level / TOP_LEVEL
        if self.signed and rng.random() > 0.5:
            fraction = -fraction
        return self.apply(image, self.argument(fraction), how, rng)


def _values(function: Callable[..., Image.Image], argument: Callable[[float], float], signed: bool = False) -> Levelled:
    """Of an operation on values: it moves no pixels and draws nothing."""
    return Levelled(lambda image, value, how, rng: function(image, value), argument, signed)


def _plain(function: Callable[[Image.Image], Image.Image]) -> Levelled:
    return Levelled(lambda image, value, how, rng: function(image))


def _affine(matrix: Callable[[Image.Image, float], tuple[float, ...]], most: float) -> Levelled:
    return Levelled(
        lambda image, value, how, rng: how.affine(image, matrix(image, value), rng),
        lambda fraction: fraction * most,
        signed=True,
    )


def _around_one(fraction: float) -> float:
    """Level 0 changes nothing; either way from there it gets stronger."""
    return max(0.1, 1.0 + fraction * 0.9)


def _from_below_one(fraction: float) -> float:
    """0.1 to 1.9: level 5 changes next to nothing."""
    return fraction * 1.8 + 0.1


def _bits(fraction: float) -> int:
    return int(fraction * 4)


def _threshold(fraction: float) -> int:
    return min(256, int(fraction * 256))


def _blur_up_to(image: Image.Image, most: float, how: Moving, rng: np.random.Generator) -> Image.Image:
    return pixels.gaussian_blur(image, uniform(rng, 0.1, 2.0 * most))


LEVELLED = {
    "AutoContrast": _plain(pixels.auto_contrast),
    "Equalize": _plain(pixels.equalize),
    "Invert": _plain(pixels.invert),
    "Rotate": Levelled(
        lambda image, degrees, how, rng: how.rotate(image, degrees, rng), lambda fraction: fraction * 30.0, signed=True
    ),
    "ShearX": _affine(lambda image, factor: (1, factor, 0, 0, 1, 0), 0.3),
    "ShearY": _affine(lambda image, factor: (1, 0, 0, factor, 1, 0), 0.3),
    "TranslateXRel": _affine(lambda image, part: (1, 0, part * image.width, 0, 1, 0), 0.45),
    "TranslateYRel": _affine(lambda image, part: (1, 0, 0, 0, 1, part * image.height), 0.45),
    "Posterize": _values(pixels.posterize, _bits),
    "PosterizeIncreasing": _values(pixels.posterize, lambda fraction: 4 - _bits(fraction)),
    "PosterizeOriginal": _values(pixels.posterize, lambda fraction: 4 + _bits(fraction)),
    "Solarize": _values(pixels.solarize, _threshold),
    "SolarizeIncreasing": _values(pixels.solarize, lambda fraction: 256 - _threshold(fraction)),
    "SolarizeAdd": _values(pixels.solarize_add, lambda fraction: min(128, int(fraction * 110))),
    "Color": _values(pixels.color, _from_below_one),
    "ColorIncreasing": _values(pixels.color, _around_one, signed=True),
    "Contrast": _values(pixels.contrast, _from_below_one),
    "ContrastIncreasing": _values(pixels.contrast, _around_one, signed=True),
    "Brightness": _values(pixels.brightness, _from_below_one),
    "BrightnessIncreasing": _values(pixels.brightness, _around_one, signed=True),
    "Sharpness": _values(pixels.sharpness, _from_below_one),
    "SharpnessIncreasing": _values(pixels.sharpness, _around_one, signed=True),
    "Desaturate": _values(pixels.desaturate, lambda fraction: min(1.0, 0.5 + 0.5 * fraction)),
    "GaussianBlur": _values(pixels.gaussian_blur, lambda fraction: min(2.0, 0.1 + 1.9 * fraction)),
    "GaussianBlurRand": Levelled(_blur_up_to, lambda fraction: min(1.0, fraction)),
}
