"""How fast a run goes, and how much of the time it waits for its input."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# Of the time, from which on something should be done about it; in a lap of at least so many seconds.
WAITING, LEAST_SECONDS = 0.05, 10.0


@dataclass(frozen=True)
class Lap:
    """Some steps: their number, the seconds they took, and the share of it in which the next batch was waited for."""

    steps: int
    seconds: float
    waiting: float


class Pace:
    """Measures laps. The device works on while Python waits for a batch, until it has done all that it was given."""

    def __init__(self) -> None:
        self._step, self._started = 0, time.monotonic()
        self._waited = 0.0
        self._laps = 0
        self._advised = False

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time in which the next one is made counts as waiting."""
        iterator = iter(batches)
        while True:
            started = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.monotonic() - started
            yield batch

    def begin(self, step: int) -> None:
        """A lap begins; what went before, such as an evaluation, is in none."""
        self._step, self._started, self._waited = step, time.monotonic(), 0.0

    def running(self) -> float:
        """Seconds of the present lap."""
        return time.monotonic() - self._started

    def lap(self, step: int) -> Lap:
        """Ends a lap with `step` and begins the next."""
        now = time.monotonic()
        seconds = max(now - self._started, 1e-9)
        lap = Lap(step - self._step, seconds, min(self._waited / seconds, 1.0))
        self._step, self._started, self._waited = step, now, 0.0
        self._laps += 1
        return lap

    def advice(self, lap: Lap) -> str:
        """A line where the input is too slow, once a run; "" otherwise. The first lap fills the pipeline: none."""
        if self._advised or self._laps < 2 or lap.waiting <= WAITING or lap.seconds < LEAST_SECONDS:
            return ""
        self._advised = True
        return (
            f"{lap.waiting:.0%} of the time went into waiting for data: faster storage or data_cache='encoded', "
            "data_cache='decoded', a lighter augment or more processor cores would shorten the run by as much"
        )
