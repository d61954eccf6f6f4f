"""The rows of a source that can read any example at once: an epoch is a permutation of them all."""

import functools
from collections.abc import Callable, Iterator

from eca_jax.data.order import random_access_rows
from eca_jax.data.sources.source import Label, Row


class RandomAccess:
    """Base class of such a `Source`, which says how an example is read."""

    def num_examples(self, split: str) -> int:
        """See `Source`."""
        raise NotImplementedError

    def _reader(self, split: str) -> Callable[[int], tuple[bytes, Label]]:
        """What reads an example by its index; ValueError or FileNotFoundError where the split is not there."""
        raise NotImplementedError

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
        """See `Source`; `window` does not matter."""
        read, count = self._reader("train"), self.num_examples("train")
        order = random_access_rows(count, batch_size, seed, start_step, first_row, num_rows, repeats)
        for epoch, index, copy in order:
            yield Row(index, epoch, copy, functools.partial(read, index))

    def eval_rows(self, split: str, start: int, stop: int) -> Iterator[Row]:
        """See `Source`."""
        read = self._reader(split)
        for index in range(start, stop):
            yield Row(index, 0, 0, functools.partial(read, index))
