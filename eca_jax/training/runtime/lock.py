"""One writer a workdir: two runs in one directory would mix their checkpoints and metrics."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from eca_jax.files import absolute, writing

LOCK_FILE = ".writer"
# What a file system says that knows no locks; there, as in a bucket, nobody is kept out.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def only_writer(workdir: str | os.PathLike) -> Iterator[None]:
    """Inside, no other process on any host that sees the directory gets in; makes the directory if it is not there.

    The lock is the system's own (`flock`, which NFS passes on): it ends with the process, however that ends. A bucket
    has none, and neither has Windows.

    Raises:
      ValueError: another process is in; the message names host and process.
      OSError: nothing can be written there.
    """
    path = absolute(workdir)
    if "://" in os.fspath(path) or os.name == "nt" or (path.exists() and not path.is_dir()):
        yield
        return
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = _open(os.fspath(path / LOCK_FILE))
    try:
        if not _locked(descriptor):
            raise ValueError(
                f"{path} is being written to by {_holder(descriptor)}; end that run or choose another workdir"
            )
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _locked(descriptor: int) -> bool:
    import fcntl  # Windows has none

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
