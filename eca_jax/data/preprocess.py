"""Evaluation preprocessing as torchvision defines it, on PIL alone: what inference uses, and the pipelines' reference.

`Resize(resize_size)` on the short side, then `CenterCrop(image_size)`. The weights that this project converts were
trained and measured so, by torchvision or by timm (which calls it).
"""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def check_interpolation(interpolation: str) -> None:
    """ValueError unless it is one of the two filters that published weights use."""
    if interpolation not in _RESAMPLING:
        raise ValueError(f"interpolation must be one of {sorted(_RESAMPLING)}, not {interpolation!r}")


def resized_shape(height: int, width: int, resize_size: int) -> tuple[int, int]:
    """(height, width) after torchvision's `Resize(resize_size)`: the long side is rounded down."""
    if width <= height:
        return int(resize_size * height / width), resize_size
    return resize_size, int(resize_size * width / height)


def center_offset(length: int, crop: int) -> int:
    """Where torchvision's `CenterCrop` begins on one axis; negative: so many zeros are padded before the image."""
    if crop > length:
        return -((crop - length) // 2)
    return round((length - crop) / 2)  # Python's round, halves to even: torchvision calls it


def load_rgb(path: str | Path) -> Image.Image:
    """Opens an image as RGB (CMYK, greyscale, palettes and transparency are converted as PIL does).

    Raises FileNotFoundError or ValueError, one line naming the file.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error) if str(path) not in str(error) else "not an image that can be decoded"
        raise ValueError(f"cannot decode image {path}: {reason}") from None


def resize_and_crop(image: Image.Image, image_size: int, resize_size: int, interpolation: str) -> np.ndarray:
    """`Resize(resize_size)` and `CenterCrop(image_size)` of an RGB image: uint8 [image_size, image_size, 3]."""
    check_interpolation(interpolation)
    height, width = resized_shape(image.height, image.width, resize_size)
    image = image.resize((width, height), _RESAMPLING[interpolation])
    left, top = center_offset(width, image_size), center_offset(height, image_size)
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))  # zeros where it sticks out


def eval_image(
    path: str | Path, image_size: int = 224, resize_size: int = 256, interpolation: str = "bilinear"
) -> np.ndarray:
    """Loads one image file as a network sees it in evaluation, before normalisation.

    Args:
      path: an image file of any kind that PIL reads.
      image_size: side of the square that is cropped from the centre.
      resize_size: length of the short side before the crop.
      interpolation: "bilinear" or "bicubic".

    Returns:
      uint8 [image_size, image_size, 3].

    Raises:
      FileNotFoundError, ValueError: missing or corrupt file, named in one line.
    """
    return resize_and_crop(load_rgb(path), image_size, resize_size, interpolation)
