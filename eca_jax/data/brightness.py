"""How bright the pictures of a data set are, to know later whether a picture is anything like them."""

import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from eca_jax.data.decode import UndecodableImage, converted, image_formats, mode_of
from eca_jax.data.own import OwnBatches
from eca_jax.data.sources.source import Row, Source

_SAMPLED = 100
# JPEGs are decoded at an eighth where that leaves as many pixels.
_SIDE = 64
# What is nearer may be another lamp or another background.
_APART = 32


def brightness(source: Source | OwnBatches, channels: int = 3) -> tuple[float, float] | None:
    """Mean and deviation of the mean values, from 0 to 255, of some training images; None where none can be looked at.

    They are read as grey, RGB or RGBA by the number of channels.

    They are the first of the order that seed 0 gives, the same on every machine.
    """
    if isinstance(source, OwnBatches):
        return None
    try:
        count = min(_SAMPLED, source.num_examples("train"))
        rows = source.train_rows(count, 0, 0, 0, count)
        with ThreadPoolExecutor() as pool:
            found = pool.map(partial(_mean, mode=mode_of(channels)), itertools.islice(rows, count))
            means = [mean for mean in found if mean is not None]
    except OSError:  # only images for evaluation are here, or the storage fails, which training will say
        return None
    return (float(np.mean(means)), float(np.std(means))) if means else None


def unlike(pixels: np.ndarray, training: tuple[float, float]) -> str | None:
    """Words about a picture that is much brighter or darker than the training's, as by `brightness`; None if it is not.

    Where training pictures differ much among each other, as photographs do, none is.
    """
    mean, deviation = training
    found = float(pixels.mean())
    if abs(found - mean) <= _APART + 4 * deviation:
        return None
    kind = "brighter" if found > mean else "darker"
    return f"much {kind} than the training images (mean {found:.0f} of 255, theirs {mean:.0f} +- {deviation:.0f})"


def _mean(row: Row, mode: str) -> float | None:
    try:
        with Image.open(io.BytesIO(row.read()[0]), formats=image_formats()) as image:
            image.draft(image.mode, (_SIDE, _SIDE))
            return float(np.asarray(converted(image, mode=mode)).mean())
    except (OSError, UndecodableImage, Image.DecompressionBombError):  # damaged ones are named elsewhere
        return None
