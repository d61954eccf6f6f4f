"""Masks of detections, within their boxes, as masks of the image: on the host, in NumPy."""

from collections.abc import Sequence

import numpy as np


def paste(mask: np.ndarray, box: Sequence[float], size: tuple[int, int], ring: bool = True) -> np.ndarray:
    """float32 [h, w]: probabilities of one object [M, M] at its box x1 y1 x2 y2 in an image of `size` (h, w).

    As torchvision's `paste_masks_in_image`: a ring of zeros around the mask, the box enlarged by as much and truncated
    to integers, then bilinear interpolation over its pixels, the last one included. mmdetection 1 has no ring
    (`Rules.mask_ring`).
    """
    top, left, part = paste_part(mask, box, size, ring)
    result = np.zeros(size, np.float32)
    result[top : top + part.shape[0], left : left + part.shape[1]] = part
    return result


def paste_part(
    mask: np.ndarray, box: Sequence[float], size: tuple[int, int], ring: bool = True
) -> tuple[int, int, np.ndarray]:
    """`paste`, but only what may be more than 0: its first row and column, and float32 of its height and width."""
    cells = mask.shape[0] + 2 * ring
    ringed = np.pad(mask.astype(np.float32), int(ring))
    x1, y1, x2, y2 = _enlarged(np.asarray(box, np.float32), np.float32(cells / mask.shape[0]))
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    left, right = max(x1, 0), min(x2 + 1, size[1])
    top, bottom = max(y1, 0), min(y2 + 1, size[0])
    if right <= left or bottom <= top:
        return 0, 0, np.zeros((0, 0), np.float32)
    rows = _interpolation(cells, height)[top - y1 : bottom - y1]
    columns = _interpolation(cells, width)[left - x1 : right - x1]
    return top, left, rows @ ringed @ columns.T


def _enlarged(box: np.ndarray, scale: np.float32) -> tuple[int, ...]:
    if scale == 1:  # the box as it is, which its halves may miss by a rounding
        return tuple(int(value) for value in box)
    half = (box[2:] - box[:2]) * np.float32(0.5) * scale
    centre = (box[2:] + box[:2]) * np.float32(0.5)
    return tuple(int(value) for value in (*(centre - half), *(centre + half)))


def _interpolation(have: int, count: int) -> np.ndarray:
    """[count, have]: bilinear, half-pixel middles, edges clamped."""
    place = np.maximum((np.arange(count) + 0.5) * (have / count) - 0.5, 0)
    low = np.minimum(place.astype(np.int64), have - 1)
    share = (place - low).astype(np.float32)
    matrix = np.zeros((count, have), np.float32)
    matrix[np.arange(count), low] += 1 - share
    matrix[np.arange(count), np.minimum(low + 1, have - 1)] += share
    return matrix
