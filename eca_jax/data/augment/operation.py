"""What a random operation on a training image is."""

from typing import Protocol

import numpy as np
from PIL import Image


class Operation(Protocol):
    """A function of an RGB image and of a random generator of its own: from equal generators, equal pixels.

    The generator comes from (seed, epoch, example index, `name`), so that no operation moves another's draws; two
    operations of one name on one image would draw the same numbers.
    """

    @property
    def name(self) -> str:
        """What its draws are keyed by."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Returns an RGB image; the given one is not changed."""


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * rng.random()


def pick(rng: np.random.Generator, count: int) -> int:
    """An integer from 0 to count - 1."""
    return min(int(rng.random() * count), count - 1)
