"""A flat tree of classes, split into training and validation by the names of its files."""

import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

VALIDATION_SHARE = 0.2

# Names of halves of a data set in other people's trees, which are no classes.
_HALVES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def is_validation(root: str, paths: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Which files of a flat tree are for validation, bool [N]: a share of each class, the same on every machine.

    A file goes by a hash of its path under `root`: files that are added or removed move no other. In a class where that
    leaves one side empty, the file nearest to it goes there, but a class's only file is for training.

    Args:
      labels: of the files, int32 [N].
    """
    shares = np.array([_share(os.path.relpath(path, root)) for path in paths])
    chosen = shares < VALIDATION_SHARE
    for own in _of_each_class(labels):
        if len(own) > 1 and chosen[own].all():
            chosen[own[shares[own].argmax()]] = False
        elif len(own) > 1 and not chosen[own].any():
            chosen[own[shares[own].argmin()]] = True
        elif len(own) == 1:
            chosen[own] = False
    return chosen


def refuse_halves(root: object, classes: Sequence[str]) -> None:
    """ValueError where the directories under `root` are not classes by their names, or there is one only."""
    halves = [name for name in classes if name.lower() in _HALVES]
    if halves:
        raise ValueError(
            f"{root} holds {', '.join(map(repr, halves))}, which look like no classes: name them train and val"
        )
    if len(classes) == 1:
        raise ValueError(f"{root} has a directory {classes[0]!r} and no other: a directory a class is needed")


def _share(path: str) -> float:
    """From 0 to 1, evenly spread over names; "/" on every system."""
    name = os.fsencode(path.replace(os.sep, "/"))
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") / 2**64


def _of_each_class(labels: np.ndarray) -> Iterator[np.ndarray]:
    for label in np.unique(labels):
        yield np.flatnonzero(labels == label)
