"""Dynamic batching: rows from many requests into the batch sizes that a program is compiled for.

Rows wait in one queue, the oldest first. A batch starts when there are enough rows for the size that takes the least
time a row, so that the device has the next one before it is done; with fewer, once the device is idle and the oldest
row has waited `max_delay`. The queue is bounded by places, which a request holds from before its images are decoded
until it is answered or given up.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

# Batches that the device is given at a time: one is computed while the next is copied.
IN_FLIGHT = 2


class Program(Protocol):
    """A computation compiled for a few batch sizes."""

    @property
    def seconds(self) -> Mapping[int, float]:
        """By batch size, how long a batch takes, padding or not."""
        ...

    def __call__(self, rows: Sequence[Any]) -> Any:
        """A sequence of one result for each of at most `max(seconds)` rows, computed; called in a thread."""
        ...


class QueueFull(Exception):
    """There are no places left."""


def batch_size(waiting: int, seconds: Mapping[int, float]) -> int:
    """How many of the waiting rows to take, 1 or more: those of the batch that answers the most rows a second.

    Where a large batch takes hardly longer than a small one, as on an accelerator that the small one does not fill, it
    is padded; where time grows with size, as on a CPU, a smaller one is filled.
    """
    best = max(seconds, key=lambda size: (min(waiting, size) / seconds[size], size))
    return min(waiting, best)


@dataclasses.dataclass(eq=False)
class _Row:
    program: Program
    value: Any
    result: asyncio.Future[Any]
    arrived: float


class Batcher:
    """Runs rows through programs in batches, on behalf of coroutines of one event loop.

    Attributes:
      places_taken: images that were accepted and are not answered yet.
      busy_seconds: time in which the device had a batch to work on.
    """

    def __init__(
        self,
        *,
        max_delay: float = 0.005,
        places: int = 256,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        """
        Args:
          max_delay: seconds that the oldest row waits for company while the device is idle.
          places: images that are accepted at a time.
          on_batch: called with the number of rows of each batch that starts.
        """
        self.places = places
        self.places_taken = 0
        self._max_delay = max_delay
        self._on_batch = on_batch
        self._rows: deque[_Row] = deque()
        self._threads = ThreadPoolExecutor(IN_FLIGHT, "device")
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._busy, self._busy_since = 0.0, 0.0

    @property
    def busy_seconds(self) -> float:
        return self._busy + (time.monotonic() - self._busy_since if self._running else 0.0)

    @property
    def waiting(self) -> int:
        """Rows that no batch has taken yet."""
        return len(self._rows)

    @contextlib.contextmanager
    def accept(self, images: int) -> Iterator[None]:
        """Holds places for the images of a request. Raises QueueFull where there are not enough."""
        if self.places_taken + images > self.places:
            raise QueueFull(f"{self.places_taken} images wait already, of at most {self.places}")
        self.places_taken += images
        try:
            yield
        finally:
            self.places_taken -= images

    async def run(self, program: Program, values: Sequence[Any]) -> list[Any]:
        """The program's result for each row. Rows of a caller that is cancelled leave the queue."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        rows = [_Row(program, value, loop.create_future(), now) for value in values]
        self._rows.extend(rows)
        self._start()
        try:
            return list(await asyncio.gather(*(row.result for row in rows)))
        finally:
            for row in rows:
                row.result.cancel()  # does nothing to those that are done
            if any(row.result.cancelled() for row in rows):
                gone = set(rows)
                self._rows = deque(row for row in self._rows if row not in gone)

    async def close(self) -> None:
        """Returns when the batches that run have ended; rows that still wait are cancelled."""
        for row in self._rows:
            row.result.cancel()
        self._rows.clear()
        if self._timer:
            self._timer.cancel()
        await asyncio.gather(*self._running)
        self._threads.shutdown()

    def _start(self) -> None:
        """Starts every batch that is due, and sets the timer for the next one."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._rows and len(self._running) < IN_FLIGHT:
            program = self._rows[0].program
            waiting = sum(row.program is program for row in self._rows)
            size = batch_size(waiting, program.seconds)
            # No number of rows would take less time a row: there is nothing to wait for.
            if size < batch_size(max(program.seconds), program.seconds):
                if self._running:
                    return
                wait = self._rows[0].arrived + self._max_delay - time.monotonic()
                if wait > 0:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._start)
                    return
            self._launch(program, size)

    def _launch(self, program: Program, size: int) -> None:
        batch: list[_Row] = []
        rest: deque[_Row] = deque()
        for row in self._rows:
            chosen = row.program is program and len(batch) < size
            (batch if chosen else rest).append(row)
        self._rows = rest
        self._on_batch(len(batch))
        if not self._running:
            self._busy_since = time.monotonic()
        task = asyncio.get_running_loop().create_task(self._compute(program, batch))
        self._running.add(task)

    async def _compute(self, program: Program, batch: list[_Row]) -> None:
        loop = asyncio.get_running_loop()
        results: Any
        try:
            results = await loop.run_in_executor(self._threads, program, [row.value for row in batch])
        except Exception as error:  # whatever it is belongs to the callers, and must not end the queue
            results = error
        for index, row in enumerate(batch):
            if row.result.done():  # its caller has gone
                continue
            if isinstance(results, Exception):
                row.result.set_exception(results)
            else:
                row.result.set_result(results[index])
        task = asyncio.current_task()
        assert task is not None
        self._running.discard(task)
        if not self._running:
            self._busy += time.monotonic() - self._busy_since
        self._start()
