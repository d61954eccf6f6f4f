"""Stopping when asked: SIGTERM (a preempted machine, a scheduler) and Ctrl-C end a run after its current step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupt:
    """Asks, inside its context, whether the run is to stop. A second signal takes its usual effect.

    With several processes JAX's own service watches SIGTERM, and all of them agree on the step to stop at.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def at(self, step: int) -> bool:
        """Whether to stop after `step`; every process has to ask at every step."""
        if jax.process_count() > 1:
            self.requested = multihost_utils.reached_preemption_sync_point(step)
        return self.requested
