"""Stopping when asked: SIGTERM (a preempted machine, a scheduler) and Ctrl-C end a run after its current step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupt:
    """Asks, inside its context, whether the run is to stop.

    With several processes JAX's own service watches SIGTERM in each of them, and all agree on the point to stop at. A
    second Ctrl-C takes its usual effect; a second SIGTERM does not: a scheduler that signals a whole group of processes
    reaches this one twice, once through `eca_jax.training.runtime.supervise.supervise`.
    """

    def __init__(self) -> None:
        self._requested = False
        self._points = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1
            for number in () if several else (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # what is ignored stays so
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        if number == signal.SIGINT:
            self._restore(number)

    def _restore(self, number: int) -> None:
        # None: the handler before was not set by Python, as the one for SIGTERM of `jax.distributed`
        signal.signal(number, self._previous.pop(number) or signal.SIG_DFL)

    def __exit__(self, *exception: object) -> None:
        for number in list(self._previous):
            self._restore(number)

    def now(self) -> bool:
        """Whether to stop here; every process has to ask at the same points, steps or batches of an evaluation."""
        self._points += 1
        if jax.process_count() > 1 and not self._requested:
            self._requested = multihost_utils.reached_preemption_sync_point(self._points)
        return self._requested
