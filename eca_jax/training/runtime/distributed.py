"""Several processes as one run: how they find each other, and how an error in one of them ends them all."""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import (
    distributed as service,
)  # JAX offers its key-value store nowhere else; Orbax takes it from here, too

from eca_jax.training.runtime.supervise import BAD_INPUT, FAILED, RESUME

# A process that is silent for so long counts as lost, and JAX ends the others: within a minute of its death.
HEARTBEAT_SECONDS = 40
# For the processes of a pod to start; each may still be installing itself.
START_SECONDS = 300

_FAILURE = "eca_jax/failure"
_POLL_SECONDS = 1.0
# How the runtime reports a connection that broke or a process that does not answer: status codes before the message.
_LOST = ("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE", "UNKNOWN")


def initialize(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the other processes of the run, where there are any; to be called before JAX touches a device.

    Args:
      coordinator: "HOST:PORT" of process 0, which any free port of it will do for.
      num_processes, process_id: how many there are, and which this is, from 0.

    The three belong together. Without them a TPU (a pod or a single host), Slurm (`srun` with several tasks) and
    Open MPI are recognised by JAX; anything else is a process by itself.

    Raises:
      ValueError: some of the three are missing, or do not fit together.
      RuntimeError: the other processes did not start.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given):
        if None in given:
            raise ValueError("coordinator (HOST:PORT), num_processes and process_id go together: give all three")
    elif not _launched():
        return
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=START_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    if _several():
        over = threading.Event()
        atexit.register(over.set)  # before JAX's own, which ends the connection
        threading.Thread(target=_watch, args=(over,), name="failures of other processes", daemon=True).start()


def _launched() -> bool:
    """Whether this is a process that JAX can tell the place of: asking it anywhere else is an error, or hangs."""
    tasks = (os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return any(int(count) > 1 for count in tasks) or "tpu" in (jax.config.values["jax_platforms"] or "")


@contextlib.contextmanager
def ending_together(but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Inside, an error in one of several processes ends them all at once, with the same exit status.

    Args:
      but: errors that all of them raise at the same place, of values that they share: those go their usual way.

    The process that failed leaves word in JAX's key-value store, says what was wrong, and exits without unwinding:
    whatever waits for the other processes on the way out would wait for ever. The others find the word within a second,
    whatever they are waiting for themselves. An error that is but the loss of another process becomes exit status 75.
    With one process the error goes its usual way.
    """
    try:
        yield
    except Exception as error:
        if not _several() or isinstance(error, but):
            raise
        _fail(error)


def _several() -> bool:
    """Whether this is one of several processes; unlike `jax.process_count`, starts no device."""
    return service.global_state.client is not None and service.global_state.num_processes > 1


def _fail(error: Exception) -> None:
    said = _word()  # the sender's connections break only after it left word
    if said is not None:
        _leave_as_told(said)
    rank = service.global_state.process_id
    status, message = verdict(error)
    if status == RESUME:
        message = (
            f"process {rank} lost another process ({message}); start all of them again: "
            "the run goes on from its newest checkpoint"
        )
    else:
        with contextlib.suppress(Exception):  # another process was first, or the first one is gone
            _store().key_value_set(_FAILURE, json.dumps([status, f"process {rank}: {message}"]))
            if rank == 0:  # the store is in this process
                time.sleep(3 * _POLL_SECONDS)
    _leave(status, message)


def verdict(error: BaseException) -> tuple[int, str]:
    """Exit status and message for an error that ends a run: one line, or the traceback of what nobody foresaw."""
    cause: BaseException | None = error
    while cause is not None and _several():
        if str(cause).startswith(tuple(f"{code}:" for code in _LOST)):
            return RESUME, str(cause).splitlines()[0][:200]
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ArithmeticError):
        return FAILED, str(error)
    if isinstance(error, (ValueError, OSError, ImportError)):
        return BAD_INPUT, " ".join(str(error).split())
    return FAILED, "".join(traceback.format_exception(error)).strip()


def _watch(over: threading.Event) -> None:
    while not over.wait(_POLL_SECONDS):
        said = _word()
        if said is not None:
            _leave_as_told(said)


def _store() -> Any:
    """Where the processes of the run leave each other words."""
    return service.global_state.client


def _word() -> str | None:
    """What a process that failed left in the store, or None."""
    try:
        return _store().key_value_try_get(_FAILURE)
    except Exception:  # nothing there, or the store is gone: then JAX ends this process
        return None


def _leave_as_told(said: str) -> None:
    _leave(*json.loads(said))


def _leave(status: int, message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)
