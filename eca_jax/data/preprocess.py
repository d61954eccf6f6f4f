"""Evaluation preprocessing as torchvision defines it, on PIL alone: what inference uses, and the pipelines' reference.

`Resize(resize_size)` on the short side, then `CenterCrop(image_size)`. The weights that this project converts were
trained and measured so, by torchvision or by timm (which calls it).
"""

import io
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray

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


def load_rgb(image: ImageLike) -> Image.Image:
    """An image as RGB (CMYK, greyscale, palettes and transparency are converted as PIL does).

    Raises FileNotFoundError or ValueError, one line naming the file.
    """
    if hasattr(image, "__array__") and not isinstance(image, Image.Image):
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
            raise ValueError(f"an image's array is uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
        return Image.fromarray(pixels)
    name = image if isinstance(image, str | os.PathLike) else f"({type(image).__name__})"
    try:
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return opened.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {name}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error) if str(name) not in str(error) else "not an image that can be decoded"
        raise ValueError(f"cannot decode image {name}: {reason}") from None


def resize_and_crop(image: Image.Image, image_size: int, resize_size: int, interpolation: str) -> np.ndarray:
    """`Resize(resize_size)` and `CenterCrop(image_size)` of an RGB image: uint8 [image_size, image_size, 3]."""
    check_interpolation(interpolation)
    height, width = resized_shape(image.height, image.width, resize_size)
    image = image.resize((width, height), _RESAMPLING[interpolation])
    left, top = center_offset(width, image_size), center_offset(height, image_size)
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))  # zeros where it sticks out


def eval_image(
    image: ImageLike, image_size: int = 224, resize_size: int = 256, interpolation: str = "bilinear"
) -> np.ndarray:
    """One image as a network sees it in evaluation, before normalisation.

    Args:
      image: a file of any kind that PIL reads, its bytes, a PIL image, or an array uint8 [H, W, 3].
      image_size: side of the square that is cropped from the centre.
      resize_size: length of the short side before the crop.
      interpolation: "bilinear" or "bicubic".

    Returns:
      uint8 [image_size, image_size, 3].

    Raises:
      FileNotFoundError, ValueError: missing or corrupt file, named in one line; an array of another kind.
    """
    return resize_and_crop(load_rgb(image), image_size, resize_size, interpolation)
