"""Makers of small JPEGs and archives, for the fixtures in conftest.py and for tests that need single files."""

import io
import tarfile

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
TRAIN_PER_CLASS = 10
VALIDATION_EXAMPLES = 14


def jpeg(seed: int, height: int = 48, width: int = 64, mode: str = "RGB", **options) -> bytes:
    """A JPEG of random blobs with fine texture, as hard for a resize as a photograph."""
    rng = np.random.default_rng(seed)

    def layer(factor):
        pixels = rng.integers(0, 256, (height // factor + 2, width // factor + 2, 3), np.uint8)
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), np.float32)

    pixels = (0.7 * layer(8) + 0.3 * layer(2)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(encoded, "jpeg", **options)
    return encoded.getvalue()


def example_jpeg(number: int) -> bytes:
    """The images of the small data sets: no two alike, in shapes that vary."""
    return jpeg(number, height=40 + number % 17, width=64 - number % 13)


def add_to_tar(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
