"""Which files lie in a directory, as people and their tools leave it."""

import functools
import os
from typing import NamedTuple

from PIL import Image

from eca_jax.data.decode import image_formats

# What operating systems, archivers, file servers and photo programs put beside pictures; so is every name that begins
# with a dot (.DS_Store, .ipynb_checkpoints, AppleDouble's ._a.jpg).
_TOOL_MADE = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "icon\r"}


class Found(NamedTuple):
    """Paths of files, and of links that lead nowhere."""

    files: list[str]
    dangling: list[str]


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in lower case with the dot, of the formats that are read here."""
    kinds = {"MPO", *image_formats()}  # several JPEGs in a file, which Pillow opens as JPEG
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in kinds)


def is_tool_made(name: str) -> bool:
    """Whether a file or directory of that name is no content of the user's."""
    return name.startswith(".") or name.lower() in _TOOL_MADE


def files_under(directory: str) -> Found:
    """All files under a directory, links followed, no directory and no linked file met twice.

    A link to what holds the directory, or to what is above that, is not followed: it would bring in its neighbours.
    """
    found = Found([], [])
    links = []
    above = [os.path.realpath(os.path.dirname(os.path.abspath(directory)))]
    while above[-1] != os.path.dirname(above[-1]):
        above.append(os.path.dirname(above[-1]))
    visited = {_identity(os.stat(path)) for path in above}
    real = set()

    def walk(directory: str) -> None:
        status = os.stat(directory)
        if _identity(status) in visited:
            return
        visited.add(_identity(status))
        with os.scandir(directory) as listing:
            # Directories and files themselves come before links to them, whatever order the disk gives.
            entries = sorted(listing, key=lambda entry: (entry.is_symlink(), entry.name))
        for entry in entries:
            if is_tool_made(entry.name):
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):
                found.dangling.append(entry.path)
            elif entry.is_dir():
                walk(entry.path)
            elif entry.is_symlink():
                links.append(entry.path)
            else:
                real.add((status.st_dev, entry.inode()))
                found.files.append(entry.path)

    walk(directory)
    for link in links:
        identity = _identity(os.stat(link))
        if identity not in real:
            real.add(identity)
            found.files.append(link)
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
