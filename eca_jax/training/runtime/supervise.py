"""What the end of a run tells its launcher: the exit status, and the process that makes sure of it."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

DONE = 0
FAILED = 1  # the loss is not finite; or the program is wrong, and says where
BAD_INPUT = 2  # what was asked for cannot be done
RESUME = 75  # EX_TEMPFAIL: stopped, or a process was lost; the same command goes on from the newest checkpoint


def supervise(work: Callable[[], int]) -> int:
    """Runs `work` in a child process; returns its exit status, or `RESUME` where a signal ended it.

    JAX and its runtimes abort the process when another one of the run is lost, and the kernel kills the one that takes
    too much memory. Both are for the launcher to start again, and neither could be told so by the process itself. For
    the same reason SIGTERM counts as a stop that is to be resumed also before there is anything to save.

    SIGTERM is passed on to the child, and Ctrl-C becomes a SIGTERM; a second Ctrl-C kills it. The child ends with this
    process. It returns from here as well, with what `work` returned. To be called before JAX touches a device.
    """
    alive, held_open = os.pipe()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until it is known what to do with them
    child = os.fork()
    if child == 0:
        os.close(held_open)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the parent speaks for both
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        threading.Thread(target=_end_with_parent, args=(alive,), name="parent's life", daemon=True).start()
        return work()
    os.close(alive)
    interrupts = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL if interrupts > 1 else signal.SIGTERM)

    for number in signals:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status >= 0:
        return status
    # What ended it came before there was anything to save, or left no time for that.
    print(
        f"error: ended by {'Ctrl-C' if interrupts else signal.Signals(-status).name}; the same command goes on from "
        "the newest checkpoint, and begins anew where there is none",
        file=sys.stderr,
    )
    return RESUME


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # returns when the parent is gone, and with it the other end of the pipe
    os.kill(os.getpid(), signal.SIGKILL)
