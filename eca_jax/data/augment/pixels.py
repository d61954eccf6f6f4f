"""What the policies do to pixels, by Pillow, whose numbers are the definition: timm and torchvision call the same."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from eca_jax.data.augment.operation import pick
from eca_jax.data.resize import RESAMPLING

RANDOM_INTERPOLATION = "random"  # one of the filters, drawn anew each time
INTERPOLATIONS = (*RESAMPLING, RANDOM_INTERPOLATION)


def check_interpolation(interpolation: str) -> None:
    """ValueError unless it is "bilinear", "bicubic" or "random"."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {sorted(INTERPOLATIONS)}, not {interpolation!r}")


def resampling(interpolation: str, rng: np.random.Generator) -> Image.Resampling:
    """Pillow's filter of that name; "random" draws one."""
    kinds = tuple(RESAMPLING)
    return RESAMPLING[kinds[pick(rng, len(kinds))] if interpolation == RANDOM_INTERPOLATION else interpolation]


@dataclass(frozen=True)
class Moving:
    """How pixels are moved: by which filter, and what comes in from outside.

    Pillow's `transform` and `rotate` do not antialias, and their bicubic has a = -1; its `resize` has a = -1/2.

    Attributes:
      interpolation: "bilinear", "bicubic" or "random".
      fill: the colour outside the image.
    """

    interpolation: str
    fill: tuple[int, int, int]

    def affine(self, image: Image.Image, matrix: tuple[float, ...], rng: np.random.Generator) -> Image.Image:
        """The image seen through `matrix`, 6 numbers by rows: the source's pixel (x, y) for each of the result's."""
        how = resampling(self.interpolation, rng)
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=how, fillcolor=self.fill)

    def rotate(self, image: Image.Image, degrees: float, rng: np.random.Generator) -> Image.Image:
        """Counterclockwise about the centre."""
        return image.rotate(degrees, resample=resampling(self.interpolation, rng), fillcolor=self.fill)


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keeps the upper `bits` of each value. Of 0 bits nothing is left: black (Pillow 13 refuses, and with it timm)."""
    mask = 0xFF & ~((1 << (8 - min(bits, 8))) - 1)
    return image.point([value & mask for value in range(256)] * 3)


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Inverts the values from `threshold` on."""
    return image.point([value if value < threshold else 255 - value for value in range(256)] * 3)


def solarize_add(image: Image.Image, amount: int) -> Image.Image:
    """Adds to the values below 128."""
    return image.point([min(255, value + amount) if value < 128 else value for value in range(256)] * 3)


def color(image: Image.Image, factor: float) -> Image.Image:
    """Saturation: 0 is grey, 1 changes nothing."""
    return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """0 is the image's mean grey, 1 changes nothing."""
    return ImageEnhance.Contrast(image).enhance(factor)


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """0 is black, 1 changes nothing."""
    return ImageEnhance.Brightness(image).enhance(factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    """0 is smoothed, 1 changes nothing."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def desaturate(image: Image.Image, amount: float) -> Image.Image:
    """0 changes nothing, 1 is grey."""
    return color(image, min(1.0, max(0.0, 1.0 - amount)))


def gaussian_blur(image: Image.Image, radius: float) -> Image.Image:
    """Pillow's approximation by box blurs."""
    return image.filter(ImageFilter.GaussianBlur(radius=radius))


auto_contrast = ImageOps.autocontrast
equalize = ImageOps.equalize
invert = ImageOps.invert
