"""torchvision's `Resize` and `CenterCrop` on Pillow, and the same numbers where Pillow would need gigabytes."""

import numpy as np
from PIL import Image

from eca_jax.data.decode import to_array

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# Pixels of a resized image above which only the crop's are computed.
_LARGE = 1 << 24

# Pillow's weights have so many bits after the point.
_PRECISION = 22


def check_interpolation(interpolation: str) -> None:
    """ValueError unless it is one of the two filters that published weights use."""
    if interpolation not in RESAMPLING:
        raise ValueError(f"interpolation must be one of {sorted(RESAMPLING)}, not {interpolation!r}")


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


def resize_and_crop(image: Image.Image, image_size: int, resize_size: int, interpolation: str) -> np.ndarray:
    """`Resize(resize_size)` on the short side and `CenterCrop(image_size)`, torchvision's on PIL bit for bit.

    Args:
      image: of mode "RGB", "L" or "RGBA"; where the last is transparent its colours count for nothing.
      image_size: side of the square that is cropped from the centre; zeros where it sticks out.
      resize_size: length of the short side before the crop.
      interpolation: "bilinear" or "bicubic".

    Returns:
      uint8 [image_size, image_size, C], read-only.

    Raises:
      ValueError: another interpolation.
    """
    check_interpolation(interpolation)
    height, width = resized_shape(image.height, image.width, resize_size)
    top, left = center_offset(height, image_size), center_offset(width, image_size)
    if height * width > max(_LARGE, image.height * image.width):  # a line of pixels grows by the square of its length
        first = max(top, 0), max(left, 0)
        count = min(image_size, height), min(image_size, width)
        image = enlarged_window(image, (height, width), interpolation, first, count)
        top, left = top - first[0], left - first[1]
    else:
        image = image.resize((width, height), RESAMPLING[interpolation])
    return to_array(image.crop((left, top, left + image_size, top + image_size)))


def enlarged_window(
    image: Image.Image,
    size: tuple[int, int],
    interpolation: str,
    start: tuple[int, int],
    count: tuple[int, int],
) -> Image.Image:
    """A window of Pillow's `image.resize`, bit for bit, in memory that grows with the window alone.

    As Pillow where it enlarges: first along the rows, rounded to 8 bits, then along the columns, rounded again. (Since
    version 13 it begins with the columns of an image whose height shrinks by over twice what the width does.)

    Args:
      image: of mode "RGB", "L" or "RGBA".
      size: (height, width) of the whole resized image, neither less than the image's.
      interpolation: "bilinear" or "bicubic".
      start, count: the window: (row, column) of its corner, (rows, columns) of it.

    Returns:
      an image of the same mode.
    """
    if image.mode == "RGBA":  # as Pillow: colours are weighted by their opacity
        weighted = enlarged_window(image.convert("RGBa"), size, interpolation, start, count)
        return weighted.convert("RGBA")
    first, weights = _weights(image.height, size[0], interpolation, start[0], count[0])
    top, bottom = int(first.min()), int(first.max()) + weights.shape[1]
    strip = to_array(image.crop((0, top, image.width, min(bottom, image.height))))
    columns = _weights(image.width, size[1], interpolation, start[1], count[1])
    strip = _resample(strip.transpose(1, 0, 2), *columns).transpose(1, 0, 2)
    return Image.frombytes(image.mode, count[::-1], _resample(strip, first - top, weights).tobytes())


def _weights(length: int, size: int, interpolation: str, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For `count` outputs from `start`: the first input of each [count], and its weights [count, taps], in int64."""
    kernel, radius = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}[interpolation]
    center = (np.arange(start, start + count) + 0.5) * (length / size)
    first = np.maximum((center - radius + 0.5).astype(np.int64), 0)
    last = np.minimum((center + radius + 0.5).astype(np.int64), length)
    inputs = first[:, None] + np.arange((last - first).max())
    weights = kernel(inputs - center[:, None] + 0.5) * (inputs < last[:, None])
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added one after the other, as Pillow does
    return first, np.trunc(weights * 2**_PRECISION + np.where(weights < 0, -0.5, 0.5)).astype(np.int64)


def _resample(values: np.ndarray, first: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums along the first axis: uint8 [L, M, C] to uint8 [count, M, C]."""
    total = np.full((len(first), *values.shape[1:]), 1 << (_PRECISION - 1), np.int64)
    for tap in range(weights.shape[1]):
        inputs = np.minimum(first + tap, len(values) - 1)  # beyond the end the weight is 0
        total += weights[:, tap, None, None] * values[inputs]
    return (total >> _PRECISION).clip(0, 255).astype(np.uint8)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -1/2."""
    x = np.abs(x)
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
