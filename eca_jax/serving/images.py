"""Image files of strangers: which kinds are opened, and how large an image may be."""

import io
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError

from eca_jax.serving.limits import Refused

# Those that browsers show. PIL reads many more, and starts other programs for some, such as EPS.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF")
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations
_ORIENTATION = 0x0112


def open_image(encoded: bytes, max_pixels: int, resized: Callable[[int, int], tuple[int, int]]) -> Image.Image:
    """The image of a file, not decoded yet.

    Args:
      max_pixels: that it may have, as it is and as it is resized.
      resized: (height, width) of the resized image, of those of the file.

    Raises:
      Refused: not an image of IMAGE_FORMATS, damaged, or too large.
    """
    try:
        opened = Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS)
    except UnidentifiedImageError:
        raise Refused(400, f"not an image of a kind that is read ({', '.join(IMAGE_FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise anything for damaged files
        raise Refused(400, f"cannot decode the image: {error}") from None
    # A sliver of an image is small as a file and huge once its short side is resized.
    for (height, width), what in (
        ((opened.height, opened.width), "is"),
        (resized(opened.height, opened.width), "would be resized to"),
    ):
        if height * width > max_pixels:
            raise Refused(413, f"the image {what} {width}x{height} pixels, of at most {max_pixels} in all")
        if not height * width:
            raise Refused(400, f"the image {what} {width}x{height} pixels: there is nothing to see")
    return opened


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) once the image is turned as its EXIF orientation says."""
    turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    return (image.width, image.height) if turned else (image.height, image.width)
