"""What a data set is to the pipeline."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

SPLITS = ("train", "validation")

T = TypeVar("T")

# A class, or int32 [K] of classes that are all right, filled up with -1.
Label = int | np.ndarray


@dataclass(frozen=True, slots=True)
class Row:
    """An example in its place in the order, not yet decoded.

    Attributes:
      index: of the example in its split.
      epoch: of the run; 0 in evaluation.
      copy: 0, 1, ... where the epoch repeats the example.
      read: returns the image file's bytes and the label (see `Source.label_shape`); OSError where the storage fails.
        Called from any thread.
    """

    index: int
    epoch: int
    copy: int
    read: Callable[[], tuple[bytes, Label]]


class Source(Protocol):
    """A labelled image data set with the splits "train" and "validation".

    Attributes:
      label_shape: of an example's label: () for a class, (K,) for several that are all right.
    """

    name: str
    label_shape: tuple[int, ...]
    num_classes: int
    class_names: list[str]

    @property
    def found(self) -> list[str]:
        """What there is, for people, a line each."""

    def num_examples(self, split: str) -> int:
        """Number of examples; ValueError for an unknown split."""

    def describe(self, split: str, index: int) -> str:
        """Where an example is stored, for messages to people."""

    def check(self, split: str) -> None:
        """Looks for images that cannot be decoded, as far as that is quick. ValueError names one, and why."""

    def train_rows(
        self,
        batch_size: int,
        seed: int,
        start_step: int,
        first_row: int,
        num_rows: int,
        *,
        repeats: int = 1,
        window: int = 1,
    ) -> Iterator[Row]:
        """Endless: `num_rows` rows of each global batch from `first_row` on, the batch of step `start_step` first.

        A pure function of its arguments. What lies before `start_step` is not read. Each example comes `repeats` times,
        in one batch but where that ends. `window` bounds the examples that are shuffled with each other where storage
        is sequential. OSError where the storage fails.
        """

    def eval_rows(self, split: str, start: int, stop: int) -> Iterator[Row]:
        """The examples `start` to `stop` - 1, each once, in a fixed order. OSError where the storage fails."""


def of_split(table: Mapping[str, T], split: str) -> T:
    """`table[split]`; ValueError for an unknown split."""
    if split not in table:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return table[split]
