"""What a tree of images holds, in words for people."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from eca_jax.data.decode import image_formats

_SHOWN_CLASSES = 20
_SAMPLED = 500
_IMBALANCED = 3.0


def census(paths: Mapping[str, Sequence[str]], labels: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
    """Numbers of images, of each class and on each side; their sizes; how uneven the classes are. A line each.

    Args:
      paths, labels: of the files of each split; `labels` int32 [N].
      names: of the classes.
    """
    counts = {split: np.bincount(own, minlength=len(names)) for split, own in labels.items()}
    total = np.sum(list(counts.values()), axis=0)
    sides = " and ".join(f"{own.sum():,} {split}" for split, own in counts.items())
    lines = [f"{len(names)} classes, {sides} images", _numbers(total, names)]
    sizes = _sizes([path for own in paths.values() for path in own])
    if len(sizes):
        shorter = sizes.min(axis=1)
        small, middle, large = np.argsort(shorter, kind="stable")[[0, len(shorter) // 2, -1]]
        words = [f"{sizes[index][0]} x {sizes[index][1]}" for index in (small, middle, large)]
        lines.append(f"sizes from {words[0]} to {words[2]}, in the middle {words[1]}")
    if total.min() and total.max() / total.min() >= _IMBALANCED:
        most, least = names[total.argmax()], names[total.argmin()]
        lines.append(
            f"uneven: {most!r} has {total.max() / total.min():.0f} times the images of {least!r}; top-1 favours the "
            "large classes, the report shows each"
        )
    if "validation" in counts and not counts["validation"].all():
        missing = [name for name, count in zip(names, counts["validation"], strict=True) if not count]
        lines.append(f"nothing to validate with of {len(missing)} classes, e.g. {missing[0]!r}: one image is too few")
    return lines


def _numbers(total: np.ndarray, names: Sequence[str]) -> str:
    if len(names) <= _SHOWN_CLASSES:
        return "images a class: " + ", ".join(f"{name} {count}" for name, count in zip(names, total, strict=True))
    return f"images a class: {total.min()} to {total.max()}, in the middle {int(np.median(total))}"


def _sizes(paths: Sequence[str]) -> np.ndarray:
    """(width, height) of evenly chosen files, int [N, 2]; of none where they lie in a bucket."""
    chosen = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, min(_SAMPLED, len(paths)), dtype=int))]
    with ThreadPoolExecutor() as pool:
        found = [size for size in pool.map(_size, chosen) if size]
    return np.array(found, int).reshape(-1, 2)


def _size(path: str) -> tuple[int, int] | None:
    if "://" in os.fspath(path):
        return None
    try:
        with Image.open(path, formats=image_formats()) as image:
            return image.size
    except Exception:  # damaged files are named elsewhere
        return None
