"""Files that are whole or not there, on a disk or in a bucket (gs://BUCKET/...)."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath


def absolute(path: str | os.PathLike) -> epath.Path:
    """A path that does not depend on the working directory, as gs://BUCKET/... never does."""
    return epath.Path(path) if "://" in os.fspath(path) else epath.Path(path).expanduser().resolve()


def reason(error: BaseException) -> str:
    """The first line of what first went wrong."""
    while error.__cause__ is not None:  # Orbax wraps TensorStore's own reason
        error = error.__cause__
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:80]} ... {line[-115:]}"  # TensorStore ends with what the system said


@contextlib.contextmanager
def writing(path: str | os.PathLike, kept: str = "") -> Iterator[None]:
    """Makes an OSError of one line of whatever goes wrong inside; `kept` follows it, to say what was not lost.

    Orbax, TensorStore and TensorFlow raise many kinds for what a disk or a bucket refuses.
    """
    try:
        yield
    except Exception as error:
        raise OSError(f"cannot write {path}: {reason(error)}{kept and f'; {kept}'}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[epath.Path]:
    """A name to write a file or to make a directory at, which takes the place of `path` at the end.

    A reader sees the old one or the new one, never a part; where the writing fails, the old one stays. An existing
    directory at `path` is replaced, too.

    Raises:
      FileNotFoundError: the directory that is to hold it is not there.
      OSError: it cannot be written.
    """
    path = absolute(path)
    if not path.parent.is_dir() and "://" not in os.fspath(path):  # a bucket has no directories to make
        raise FileNotFoundError(f"cannot write {path}: there is no directory {path.parent}")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix or '.tmp'}")
    with writing(path):
        try:
            yield temporary
            if path.is_dir():
                path.rmtree()
            temporary.replace(path)
        finally:
            if temporary.is_dir():
                temporary.rmtree()
            else:
                temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file by `replacing`. OSError if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike, value: Mapping[str, Any]) -> None:
    """Writes `value` by `replacing`."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())
