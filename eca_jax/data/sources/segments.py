"""Outlines and run lengths of COCO's annotations as masks, drawn by pycocotools after a check of what is drawn.

pycocotools itself reads a polygon of two points as a box, and takes run lengths of any sum.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def runs_of(segmentation: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    """COCO's compressed run lengths of an annotation in an image of `size` (h, w); None where it is no mask.

    Polygons that are none (fewer than three points, numbers that are not finite) are left out. Raises ImportError
    without pycocotools.
    """
    from pycocotools import mask as coder

    if isinstance(segmentation, list):
        polygons = [polygon for polygon in map(_polygon, segmentation) if polygon is not None]
        return coder.merge(coder.frPyObjects(polygons, *size)) if polygons else None
    if not isinstance(segmentation, Mapping) or list(segmentation.get("size", ())) != list(size):
        return None
    lengths = segmentation.get("counts")
    if isinstance(lengths, str):
        lengths = lengths.encode()
    if isinstance(lengths, bytes):
        lengths = uncompressed(lengths)
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        return None
    if sum(lengths) != size[0] * size[1]:
        return None
    return coder.frPyObjects({"size": list(size), "counts": lengths}, *size)


def _polygon(points: Any) -> list[float] | None:
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return None
    good = all(isinstance(value, int | float) and abs(value) < 1e6 for value in points)  # NaN is not
    return [float(value) for value in points] if good else None


def uncompressed(counts: bytes) -> list[int]:
    """The run lengths that COCO's compressed form holds; nothing where it is cut short.

    Five bits a character, low ones first, bit 5 for "more follows" and bit 4 of the last for the sign; from the
    fourth on the difference to the run two before.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64:
            return []
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return [] if shift else lengths


def rasterized(segmentation: Any, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [h, w] of an annotation; of one that is no mask, its box x1 y1 x2 y2. Raises ImportError as `runs_of`."""
    runs = runs_of(segmentation, size) if segmentation else None
    if runs is None:
        x1, y1, x2, y2 = np.round(box).astype(int)
        mask = np.zeros(size, bool)
        mask[y1:y2, x1:x2] = True
        return mask
    from pycocotools import mask as coder

    return coder.decode(runs).astype(bool)
