"""Copies batches to the devices ahead of the step that needs them."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np


def prefetch_to_device(
    batches: Iterable[Mapping[str, np.ndarray]], sharding: jax.sharding.Sharding, size: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Yields each batch as global arrays, having started the transfer of the `size` - 1 batches after it.

    Args:
      batches: this process's rows of each global batch.
      sharding: how the leading axis of the global arrays lies on the devices of all processes.
      size: batches on the device at a time (2: one in use, one on its way).

    Yields:
      the same dicts of `jax.Array`, with the rows of all processes.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    waiting = iter(batches)
    queue: collections.deque[dict[str, jax.Array]] = collections.deque()

    def enqueue(count: int) -> None:
        for batch in itertools.islice(waiting, count):
            queue.append({k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()})

    enqueue(size)
    while queue:
        yield queue.popleft()
        enqueue(1)
