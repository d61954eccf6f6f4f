"""Which example stands in which row of which batch: pure NumPy functions of (seed, epoch), independent of the reader.

The rows of a global batch are numbered 0..batch_size-1, and process p of P owns the rows [p*b, (p+1)*b) with
b = batch_size / P. Everything here depends on the global batch alone, so that 1, 2 or 64 processes train on the
same batches, and a run that resumes at any step sees the rest of exactly the same order.
"""

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_STREAMS = 64


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Full batches in one epoch; the remainder, another one in each epoch, is left out. ValueError if there is none."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    if num_examples < batch_size:
        raise ValueError(f"batch_size {batch_size} is larger than the training split ({num_examples} examples)")
    return num_examples // batch_size


def epoch_rng(seed: int, epoch: int, *stream: int) -> np.random.Generator:
    """The random generator of one epoch (and, within it, of one stream of records)."""
    return np.random.default_rng([seed, epoch, *stream])


def permuted_rows(num_examples: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Example indices [steps, batch_size] of one epoch, for storage where any example can be read at once."""
    steps = steps_per_epoch(num_examples, batch_size)
    order = epoch_rng(seed, epoch).permutation(num_examples)
    return order[: steps * batch_size].reshape(steps, batch_size)


def random_access_rows(
    num_examples: int,
    batch_size: int,
    seed: int,
    start_step: int,
    first_row: int,
    num_rows: int,
    repeats: int = 1,
) -> Iterator[tuple[int, int, int]]:
    """Endless (epoch, index, copy): `num_rows` rows from `first_row` on of each batch from `start_step` on.

    With `repeats` the epoch's permutation is met so far as its steps go, each example that many times over; in a batch
    the first copies come first, then the second ones, and so on.
    """
    steps = steps_per_epoch(num_examples, batch_size)
    epoch, step = divmod(start_step, steps)
    while True:
        permuted = permuted_rows(num_examples, batch_size, seed, epoch).ravel()
        for number in range(step, steps):
            place = number * batch_size + np.arange(batch_size)
            own = np.argsort(place % repeats, kind="stable")[first_row : first_row + num_rows]
            indices, copies = permuted[place[own] // repeats], place[own] % repeats
            for index, copy in zip(indices.tolist(), copies.tolist(), strict=True):
                yield epoch, index, copy
        epoch, step = epoch + 1, 0


@functools.cache
def _operation_key(operation: str) -> int:
    return int.from_bytes(hashlib.blake2b(operation.encode(), digest_size=8).digest(), "little")


def example_rng(seed: int, epoch: int, index: int, operation: str, copy: int = 0) -> np.random.Generator:
    """The random generator of one operation on one (copy of an) example in one epoch: none shares draws with another.

    Philox counts: (seed, operation) is its key, (copy, index, epoch) what its counter begins with.
    """
    key = np.array([seed, _operation_key(operation)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, copy, index, epoch], np.uint64)))


@dataclass(frozen=True)
class StreamOrder:
    """The order of examples kept in files that are only fast to read from start to end (TFRecord shards).

    A global permutation of them would need random access, which object stores do not give. Instead the shards are
    permuted in every epoch, laid end to end on a circle that starts at a random record, and cut into `streams` equal
    arcs. Stream s fills the rows [s*r, (s+1)*r) of every batch, r = batch_size / streams, and shuffles blocks of
    `block` records. So a batch mixes records of all streams, each drawn from its stream's current block: `window`
    records in all, the size of the equivalent shuffle buffer. A split of at most `window` records in one shard is
    permuted exactly. The number of streams depends on the batch and the shards only, never on the processes.

    Attributes:
      shard_lengths: records in each file.
      batch_size: global batch.
      window: records that are shuffled with each other, over all streams; bounds the memory (see `block`).
      repeats: rows that show each record, one after the other; an epoch reads that part of the records.
    """

    shard_lengths: tuple[int, ...]
    batch_size: int
    window: int
    repeats: int = 1

    @property
    def streams(self) -> int:
        """A power of two that divides the batch, at most one stream for each shard, and at most 64."""
        shards = 1 << (len(self.shard_lengths).bit_length() - 1)
        return math.gcd(self.batch_size, shards, MAX_STREAMS)

    @property
    def steps(self) -> int:
        return steps_per_epoch(sum(self.shard_lengths), self.batch_size)

    @property
    def rows(self) -> int:
        """Rows of each batch that one stream fills."""
        return self.batch_size // self.streams

    @property
    def block(self) -> int:
        """Records that one stream holds encoded in memory while it emits them; one further block is read ahead."""
        return max(1, self.window // self.streams)

    def plan(self, seed: int, epoch: int, stream: int, start_step: int = 0) -> tuple[Any, ...]:
        """What one stream reads in one epoch, from the block that holds `start_step` on.

        Returns int64 arrays, all but the last of one dimension:
          shard, skip, take: segments in reading order: `take` records of file `shard` after its first `skip`.
          first_index: for each segment, the index of its first record in the split.
          order: for each row to emit, the position, within its block as read, of the record; `block` * `repeats` rows
            belong to a block.
          dropped: scalar, how many rows to leave out of the first block.
        """
        lengths = np.asarray(self.shard_lengths, np.int64)
        total = int(lengths.sum())
        rng = epoch_rng(seed, epoch)
        shards = rng.permutation(len(lengths))
        origin = int(rng.integers(total)) + stream * total // self.streams

        rows = self.steps * self.rows
        records = -(-rows // self.repeats)
        first_block, dropped = divmod(start_step * self.rows, self.block * self.repeats)
        read = first_block * self.block
        shard, skip, take = _cut_circle(lengths, shards, (origin + read) % total, records - read)
        starts = np.cumsum(lengths) - lengths

        shuffle = epoch_rng(seed, epoch, stream)
        sizes = [min(self.block, records - start) for start in range(0, records, self.block)]
        order = np.concatenate([shuffle.permutation(size) for size in sizes][first_block:]).repeat(self.repeats)
        order = order[: rows - read * self.repeats]
        return shard, skip, take, starts[shard] + skip, order, np.int64(dropped)


def _cut_circle(lengths: np.ndarray, shards: np.ndarray, start: int, count: int) -> tuple[np.ndarray, ...]:
    """Segments (shard, skip, take) of `count` records from position `start` of the shards laid on a circle."""
    segments = []
    ends = np.cumsum(lengths[shards])
    position = int(np.searchsorted(ends, start, side="right"))
    skip = start - (int(ends[position]) - int(lengths[shards[position]]))
    while count > 0:
        shard = shards[position % len(shards)]
        take = min(int(lengths[shard]) - skip, count)
        if take:
            segments.append((shard, skip, take))
        count, skip, position = count - take, 0, position + 1
    return tuple(np.asarray(column, np.int64) for column in zip(*segments, strict=True))
