"""Threads that read and decode."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor


class Workers(ThreadPoolExecutor):
    """Threads that are not waited for: a run that ends leaves batches behind that nobody will ask for."""

    def __exit__(self, *error: object) -> None:
        if not sys.is_finalizing():  # at the interpreter's exit the threads have ended, and what this calls is gone
            self.shutdown(wait=False, cancel_futures=True)


def usable_cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
