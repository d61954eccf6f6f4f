"""Rows to batches of pixels, by threads: Pillow lets go of the interpreter while it works."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from eca_jax.data.batch import IMAGE, LABEL, MASK
from eca_jax.data.decode import UndecodableImage, decode
from eca_jax.data.sources.source import Label, Row
from eca_jax.data.workers import Workers, usable_cpus

# What is kept in memory of each example, from one epoch to the next.
CACHES = ("", "encoded", "decoded")

# Rows that a thread decodes in one go: enough that handing them out costs nothing beside decoding.
_ROWS_AT_ONCE = 8

Load = Callable[[Row], tuple[Image.Image, Label]]
Pixels = Callable[[Row, Image.Image], np.ndarray]

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """An example that could not be decoded, by its index in the split, and why."""

    index: int
    reason: str


# A batch, and what of it could not be decoded.
Decoded = tuple[dict[str, np.ndarray], list[Failure]]


def loader(*, upright: bool, mode: str = "RGB", cache: str = "", cache_bytes: int = 0) -> Load:
    """A function from a row to its decoded image and its label.

    Args:
      upright, mode: see `eca_jax.data.decode.decode`.
      cache: what to keep of each example: "encoded" files, "decoded" images (five times as large, of photographs), or
        "" for nothing. The examples that come first are kept, until `cache_bytes` are full.

    Raises:
      ValueError: no such cache, or no bytes for it.
    """
    if cache not in CACHES:
        raise ValueError(f"cache must be one of {', '.join(map(repr, CACHES))}, not {cache!r}")
    if cache and cache_bytes < 1:
        raise ValueError(f"cache_bytes must be positive, not {cache_bytes}")

    read: Callable[[Row], tuple[bytes, Label]] = _read
    if cache == "encoded":
        read = _kept(read, lambda found: len(found[0]), cache_bytes)

    def load(row: Row) -> tuple[Image.Image, Label]:
        encoded, label = read(row)
        return decode(encoded, upright=upright, mode=mode), label

    if cache == "decoded":  # Pillow holds four bytes a pixel
        return _kept(load, lambda found: 4 * found[0].width * found[0].height, cache_bytes)
    return load


def _read(row: Row) -> tuple[bytes, Label]:
    return row.read()


def _kept(make: Callable[[Row], T], size: Callable[[T], int], budget: int) -> Callable[[Row], T]:
    """`make`, whose results are kept by the row's example as long as they fit into `budget` bytes."""
    kept: dict[int, T] = {}
    used, lock = 0, threading.Lock()

    def get(row: Row) -> T:
        nonlocal used
        if row.index in kept:
            return kept[row.index]
        made = make(row)
        with lock:
            if row.index not in kept and used + size(made) <= budget:
                kept[row.index] = made
                used += size(made)
        return made

    return get


def decoded_batches(
    name: str,
    rows: Iterator[Row],
    load: Load,
    pixels: Pixels,
    num_rows: int,
    image_shape: tuple[int, int, int],
    num_workers: int | None = None,
    label_shape: tuple[int, ...] = (),
) -> Iterator[Decoded]:
    """Batches of `num_rows` rows (the last may be smaller), and the rows that could not be decoded.

    As many batches are in work as keep all threads busy. Copies of an example in a batch are decoded once.

    Args:
      name: of the data set, for messages.
      rows: in their order.
      load, pixels: from a row to its image and label; from both to uint8 of `image_shape`, [S, S, C].
      num_workers: threads; by default one for each CPU that this process may use.
      label_shape: of one label.

    Raises:
      ValueError: the storage failed; one line.
    """
    workers = num_workers or usable_cpus()
    part = max(1, min(_ROWS_AT_ONCE, -(-num_rows // workers)))
    ahead = 1 + max(2, -(-2 * workers * part // num_rows))
    with Workers(workers) as pool:
        pending: deque[Callable[[], Decoded]] = deque()
        try:
            while batch := list(itertools.islice(rows, num_rows)):
                pending.append(_submit(pool, batch, load, pixels, blank(len(batch), image_shape, label_shape), part))
                if len(pending) >= ahead:
                    yield pending.popleft()()
            while pending:
                yield pending.popleft()()
        except OSError as error:
            raise ValueError(f"cannot read {name}: {error}") from None


def _submit(
    pool: ThreadPoolExecutor, rows: list[Row], load: Load, pixels: Pixels, batch: dict[str, np.ndarray], part: int
) -> Callable[[], Decoded]:
    """Starts the decoding of rows into a blank batch; what it returns waits for its end."""
    examples: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        examples.setdefault(row.index, []).append(number)
    copies = list(examples.values())
    together = max(1, part * len(copies) // len(rows))

    def decode_part(start: int) -> list[Failure]:
        failures = []
        for numbers in copies[start : start + together]:
            try:
                image, label = load(rows[numbers[0]])
            except UndecodableImage as error:
                failures.append(Failure(rows[numbers[0]].index, str(error)))
                continue
            for number in numbers:
                batch[IMAGE][number] = pixels(rows[number], image)
                batch[LABEL][number], batch[MASK][number] = label, 1
        return failures

    parts = [pool.submit(decode_part, start) for start in range(0, len(copies), together)]

    def finished() -> Decoded:
        failures = [failure for done in parts for failure in done.result()]
        for values in batch.values():
            values.flags.writeable = False
        return batch, failures

    return finished


def blank(rows: int, image_shape: tuple[int, int, int], label_shape: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """A batch of rows that do not count."""
    return {
        IMAGE: np.zeros((rows, *image_shape), np.uint8),
        LABEL: np.zeros((rows, *label_shape), np.int32),
        MASK: np.zeros(rows, np.float32),
    }
