"""Files of a workdir, on a disk or in a bucket (gs://BUCKET/...)."""

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


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part. OSError if it cannot be written."""
    temporary = path.with_suffix(".tmp")
    with writing(path):
        temporary.write_bytes(content)
        temporary.replace(path)


def write_json(path: epath.Path, value: Mapping[str, Any]) -> None:
    """Writes `value` as `write_whole` does."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())
