"""torchvision's random crop and flip."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from eca_jax.data.augment.operation import pick, uniform
from eca_jax.data.augment.pixels import resampling

_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomResizedCrop:
    """torchvision's `RandomResizedCrop` on PIL: a random window, cut out and then resized.

    Attributes:
      image_size: side of the result.
      scale: area of the window as a fraction of the image's, (low, high).
      ratio: its width / height, (low, high).
      interpolation: "bilinear", "bicubic" or "random" (timm's default: one of the two for each image).
    """

    image_size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    name: str = "random_resized_crop"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        top, left, height, width = random_crop_window(rng, image.height, image.width, self.scale, self.ratio)
        # Cut first: `resize(box=...)` would read pixels beyond the window.
        window = image.crop((left, top, left + width, top + height))
        return window.resize((self.image_size, self.image_size), resampling(self.interpolation, rng))


def random_crop_window(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """torchvision's `RandomResizedCrop.get_params`.

    Up to ten attempts at a window whose area is uniform in `scale` (of the image's area) and whose aspect ratio is
    log-uniform in `ratio`; the first that fits stands at a uniform position. If none fits: the central window of the
    nearest allowed aspect ratio.

    Args:
      rng: draws two numbers an attempt and two for the position.
      height, width: of the image.
      scale, ratio: (low, high).

    Returns:
      top, left, height, width.
    """
    logarithms = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_ATTEMPTS):
        area = height * width * uniform(rng, *scale)
        aspect = math.exp(uniform(rng, *logarithms))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = pick(rng, height - crop_height + 1), pick(rng, width - crop_width + 1)
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        crop_width = round(height * ratio[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors with `probability`."""

    probability: float = 0.5
    name: str = "horizontal_flip"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() < self.probability:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image
