"""What a data set is to the pipeline."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from eca_jax.data.runtime import Dataset, Row, Tensor

SPLITS = ("train", "validation")

T = TypeVar("T")


class Source(Protocol):
    """A labelled image data set with the splits "train" and "validation"."""

    name: str
    num_classes: int
    class_names: list[str]

    def num_examples(self, split: str) -> int:
        """Number of examples; ValueError for an unknown split."""

    def describe(self, split: str, index: int) -> str:
        """Where an example is stored, for messages to people."""

    def train_rows(
        self, batch_size: int, seed: int, start_step: int, first_row: int, num_rows: int, window: int
    ) -> Dataset:
        """Endless tf.data stream of encoded rows, `num_rows` of each global batch from `first_row` on.

        Elements are dicts with int64 "index" (of the example in the split) and "epoch", and what `parse` needs.
        """

    def eval_rows(self, split: str, start: int, stop: int) -> Dataset:
        """tf.data stream of the encoded examples `start` to `stop` - 1, each once, in a fixed order."""

    def parse(self, row: Row) -> tuple[Tensor, Tensor]:
        """(encoded image, label) of one row: string scalar, integer scalar."""


def of_split(table: Mapping[str, T], split: str) -> T:
    """`table[split]`; ValueError for an unknown split."""
    if split not in table:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return table[split]
