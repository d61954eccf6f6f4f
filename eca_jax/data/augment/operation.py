"""What a random operation on a training image is."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class OnGrey:
    """An operation on a grey image, which it sees as three equal channels. It leaves them equal."""

    operation: Operation

    @property
    def name(self) -> str:
        """The operation's own."""
        return self.operation.name

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Returns a grey image."""
        return self.operation(image.convert("RGB"), rng).convert("L")


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * rng.random()


def pick(rng: np.random.Generator, count: int) -> int:
    """An integer from 0 to count - 1."""
    return min(int(rng.random() * count), count - 1)
