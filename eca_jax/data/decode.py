"""Image files to pixels: the one way by which training, validation and prediction read a picture.

What Pillow says a file shows, as `convert("RGB")` gives it and as torchvision's and timm's loaders take it, with one
exception: 16-bit greyscale counts by its high byte, where Pillow would clip nearly all of it to white. CMYK is
converted as its Adobe marker says, transparency is dropped, of an animation the first frame is taken, and a file's
suffix means nothing.

For networks of other channels the same by `convert("L")`, grey, and by `convert("RGBA")`, where transparency stays and
a picture without is opaque.

EXIF orientation is ignored, as torchvision and timm do, and as ImageNet's accuracies are measured, unless `upright` is
asked for: prediction does, because its pictures come from people's phones.
"""

import functools
import io
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# Pillow writes single-channel 16-bit pictures in these modes; PGM's alone come as 32-bit "I".
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")

# Pillow knows these formats by name and cannot decode them, or starts another program for it (Ghostscript for EPS).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# The last bytes of a whole file of the common formats, which some programs pad.
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xae\x42\x60\x82"}
_LAST = 64

# Pillow's mode of a picture, by the number of its channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# What turns a picture of each EXIF orientation upright; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read here."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_DECODED)


class UndecodableImage(ValueError):
    """The bytes are no picture that can be read; the message is the reason, one line without a name."""


def mode_of(channels: int) -> str:
    """Pillow's mode of a picture of so many channels. Raises ValueError for numbers that no picture has."""
    if channels not in _MODES:
        raise ValueError(f"pictures are read with 1 channel (grey), 3 (RGB) or 4 (RGBA), not with {channels}")
    return _MODES[channels]


def decode(encoded: bytes, *, upright: bool = False, mode: str = "RGB") -> Image.Image:
    """Decodes a whole image file of any kind that Pillow reads.

    Args:
      encoded: the file's bytes.
      upright: turn the picture as its EXIF orientation says.
      mode: "RGB", "L" or "RGBA".

    Returns:
      an image of that mode.

    Raises:
      UndecodableImage: not an image, damaged, truncated, or of more pixels than Pillow allows (twice
        `PIL.Image.MAX_IMAGE_PIXELS`, 179 million; a program that trusts its files may raise it).
    """
    if not encoded:
        raise UndecodableImage("the file is empty")
    try:
        image = Image.open(io.BytesIO(encoded), formats=image_formats())
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UndecodableImage(
            f"it has more than {limit:,} pixels, the limit (twice PIL.Image.MAX_IMAGE_PIXELS)"
        ) from None
    except UnidentifiedImageError:
        raise UndecodableImage("not an image of a known format") from None
    except Exception as error:
        raise _undecodable(error) from None
    with image:
        return converted(image, upright=upright, mode=mode)


def converted(image: Image.Image, *, upright: bool = False, mode: str = "RGB") -> Image.Image:
    """An opened picture of any mode as `decode` gives it, and with its errors."""
    try:
        image.load()
        orientation = _orientation(image) if upright else 1
        result = _in_mode(image, mode)
    except Exception as error:
        raise _undecodable(error) from None
    return result.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else result


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, C] of an image as `decode` gives it."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def looks_complete(file: BinaryIO) -> bool:
    """Whether an open file begins as a JPEG or PNG of allowed size and ends as one; False also for other formats."""
    try:
        with Image.open(file, formats=tuple(_ENDINGS)) as image:
            ending = _ENDINGS[str(image.format)]
            file.seek(max(0, file.seek(0, io.SEEK_END) - _LAST))
            return ending in file.read()
    except Exception:  # see `_undecodable`
        return False


def _undecodable(error: Exception) -> Exception:
    """Pillow's readers raise anything, from struct.error to KeyError, on damaged files: all of it means this."""
    if isinstance(error, MemoryError):
        return error
    return UndecodableImage(" ".join(str(error).split()) or type(error).__name__)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above; what the camera noted down may be damaged, and the picture good
        return 1


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # the same colours, without Pillow's warning
    return image.convert(mode)
