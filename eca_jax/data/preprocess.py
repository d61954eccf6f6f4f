"""Evaluation preprocessing as torchvision defines it: what inference uses, and the pipeline for validation.

`Resize(resize_size)` on the short side, then `CenterCrop(image_size)`. The weights that this project converts were
trained and measured so, by torchvision or by timm (which calls it).
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from eca_jax.data.decode import UndecodableImage, converted, decode, mode_of
from eca_jax.data.resize import resize_and_crop

ImageLike = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray


def load_image(image: ImageLike, *, upright: bool = False, channels: int = 3) -> Image.Image:
    """An image as RGB, grey or RGBA, see `eca_jax.data.decode`.

    Raises FileNotFoundError or ValueError, one line naming the file.
    """
    if hasattr(image, "__array__") and not isinstance(image, Image.Image):
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != channels:
            raise ValueError(f"an image's array is uint8 [H, W, {channels}], not {pixels.dtype} {list(pixels.shape)}")
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    mode = mode_of(channels)
    name = image if isinstance(image, str | os.PathLike) else f"({type(image).__name__})"
    try:
        if isinstance(image, Image.Image):
            return converted(image, upright=upright, mode=mode)
        return decode(image if isinstance(image, bytes) else _contents(image), upright=upright, mode=mode)
    except FileNotFoundError:
        raise FileNotFoundError(f"no such image: {name}") from None
    except UndecodableImage as error:
        raise ValueError(f"cannot decode image {name}: {error}") from None
    except OSError as error:
        raise ValueError(f"cannot read image {name}: {error.strerror or error}") from None


def _contents(file: str | os.PathLike | BinaryIO) -> bytes:
    """Of an open file from its beginning, as Pillow opens it: it may be read twice."""
    if isinstance(file, str | os.PathLike):
        return Path(file).read_bytes()
    if file.seekable():
        file.seek(0)
    return file.read()


def eval_image(
    image: ImageLike,
    image_size: int = 224,
    resize_size: int = 256,
    interpolation: str = "bilinear",
    *,
    upright: bool = False,
    channels: int = 3,
) -> np.ndarray:
    """One image as a network sees it in evaluation, before normalisation.

    Args:
      image: a file of any kind that PIL reads, by its path, open or as bytes, a PIL image, or an array uint8 [H, W, C].
      image_size: side of the square that is cropped from the centre.
      resize_size: length of the short side before the crop.
      interpolation: "bilinear" or "bicubic".
      upright: turn the picture as its EXIF orientation says (an array has none).
      channels: C, 1 for grey, 3 for RGB, 4 for RGBA.

    Returns:
      uint8 [image_size, image_size, C].

    Raises:
      FileNotFoundError, ValueError: missing or corrupt file, named in one line; an array of another kind.
    """
    opened = load_image(image, upright=upright, channels=channels)
    return resize_and_crop(opened, image_size, resize_size, interpolation)
