"""A tree of image files, one directory a class."""

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any

import numpy as np
from etils import epath

from eca_jax.data.decode import UndecodableImage, decode, looks_complete
from eca_jax.data.sources.census import census
from eca_jax.data.sources.flat import is_validation, refuse_halves
from eca_jax.data.sources.random_access import RandomAccess
from eca_jax.data.sources.source import SPLITS, Label, of_split
from eca_jax.data.sources.walk import Found, files_under, image_suffixes, is_tool_made

_FOLDERS = {"train": "train", "validation": "val"}
_EXPECTED = "CLASS/*.JPEG, .jpg or .png"


class FolderSource(RandomAccess):
    """`train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`; classes are numbered in sorted order, as torchvision does.

    Where neither train/ nor val/ is there, `CLASS/*.JPEG`: a fifth of each class, by a hash of the files' names, is for
    validation (see `flat.is_validation`). Files that look damaged and cannot be decoded are then left out and logged.

    Read are all files of a format that Pillow reads, in subdirectories too. Names that begin with a dot, and what
    archivers and thumbnailers leave behind, are nothing: neither classes nor images. Links are followed, to each
    directory and file of a class once. What is left out because of its format is logged.

    Args:
      root: the directory of train/ and val/, or of the classes.
      splits: which of the two must be there; the other is read where it is.

    Attributes:
      found: what there is, for people, a line each; sizes are those of some hundred files.

    Raises:
      FileNotFoundError: one of `splits` is not there, or links lead nowhere.
      ValueError: a class without images, different classes in the two, or directories that look like no classes.
    """

    def __init__(self, root: str | os.PathLike, splits: Sequence[str] = SPLITS):
        self.name = "folder"
        self.label_shape: tuple[int, ...] = ()
        self.root = epath.Path(root).expanduser()
        self._paths: dict[str, list[str]] = {}
        self._labels: dict[str, np.ndarray] = {}
        if self._is_flat():
            self._split()
            return
        if self.root.is_dir() and not any((self.root / name).is_dir() for name in _FOLDERS.values()):
            raise FileNotFoundError(
                f"no such directory: {self.root / _FOLDERS[splits[0]]}: expected train/{_EXPECTED} and "
                f"val/{_EXPECTED}, or {_EXPECTED} in {self.root}"
            )
        present = [split for split in SPLITS if split in splits or (self.root / _FOLDERS[split]).is_dir()]
        classes: dict[str, list[str]] = {}
        for split in present:
            if "train" in classes and not (self.root / _FOLDERS[split]).is_dir():
                raise FileNotFoundError(
                    f"no such directory: {self.root / _FOLDERS[split]}: expected val/{_EXPECTED}; "
                    f"{self.root / _FOLDERS['train']} alone, as data_dir, is split by itself"
                )
            self._paths[split], self._labels[split], classes[split] = _scan(self.root / _FOLDERS[split])
        self.class_names = classes[present[0]]
        self.num_classes = len(self.class_names)
        differing = sorted(set(classes[present[0]]) ^ set(classes[present[-1]]))
        if differing:
            raise ValueError(
                f"{self.root}: train and val must have the same classes; "
                f"{len(differing)} are in one of them only, e.g. {differing[0]!r}"
            )

    def _is_flat(self) -> bool:
        if any((self.root / name).is_dir() for name in _FOLDERS.values()) or not self.root.is_dir():
            return False
        return any(entry.is_dir() and not is_tool_made(entry.name) for entry in self.root.iterdir())

    def _split(self) -> None:
        """Takes a flat tree in."""
        paths, labels, self.class_names = _scan(self.root)
        refuse_halves(self.root, self.class_names)
        self.num_classes = len(self.class_names)
        validation = is_validation(str(self.root), paths, labels)
        damaged = _damaged([] if "://" in str(self.root) else paths)
        if damaged:
            index = min(damaged)
            logging.warning(
                "%d files that cannot be decoded are left out, e.g. %s: %s",
                len(damaged),
                _printable(paths[index]),
                damaged[index],
            )
        whole = np.array([index not in damaged for index in range(len(paths))])
        for split, chosen in (("train", whole & ~validation), ("validation", whole & validation)):
            self._paths[split] = [paths[index] for index in np.flatnonzero(chosen)]
            self._labels[split] = labels[chosen]
            if not self._paths[split]:
                raise ValueError(f"{self.root}: there is nothing for {split}: {len(paths)} images are too few")

    @functools.cached_property
    def found(self) -> list[str]:
        return census(self._paths, self._labels, self.class_names)

    def num_examples(self, split: str) -> int:
        """Number of examples; ValueError for an unknown split, FileNotFoundError for one that is not there."""
        return len(self._of(self._paths, split))

    def describe(self, split: str, index: int) -> str:
        """The file's path; bytes that are no UTF-8 are escaped."""
        return _printable(self._of(self._paths, split)[index])

    def check(self, split: str) -> None:
        """Looks at the beginning and the end of each file; decodes those that look damaged. Buckets are not looked at.

        Raises:
          ValueError: how many images cannot be decoded, the first one's path, and why.
        """
        paths = [] if "://" in str(self.root) else self._of(self._paths, split)
        damaged = _damaged(paths)
        if damaged:
            index, reason = next(iter(damaged.items()))
            others = f" ({len(damaged) - 1} more cannot either)" if len(damaged) > 1 else ""
            raise ValueError(f"cannot decode {split} image {self.describe(split, index)}: {reason}{others}")

    def _reader(self, split: str) -> Callable[[int], tuple[bytes, Label]]:
        paths, labels = self._of(self._paths, split), self._labels[split]
        return lambda index: _read(paths[index], int(labels[index]))

    def _of(self, table: dict[str, Any], split: str) -> Any:
        if split in _FOLDERS and split not in table:
            raise FileNotFoundError(f"no such directory: {self.root / _FOLDERS[split]}")
        return of_split(table, split)


def _damaged(paths: Sequence[str]) -> dict[int, str]:
    """Why which of the images cannot be decoded, as far as that is quick to find out."""
    with ThreadPoolExecutor() as pool:
        return {index: reason for index, reason in enumerate(pool.map(_damage, paths)) if reason}


def _printable(path: str) -> str:
    """A name as text that every file and terminal takes; bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _damage(path: str) -> str | None:
    """Why the image cannot be decoded, if so."""
    try:
        with open(path, "rb") as file:
            if not looks_complete(file):
                file.seek(0)
                decode(file.read())
    except UndecodableImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _read(path: str, label: int) -> tuple[bytes, int]:
    if "://" in path:
        return epath.Path(path).read_bytes(), label
    with open(path, "rb") as file:
        return file.read(), label


def _scan(folder: epath.Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Paths, labels int32 and class names of one half of a folder tree, in torchvision's order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: {folder} (expected {folder.name}/{_EXPECTED})")
    remote = "://" in str(folder)
    dangling: list[str] = []
    left_out: list[str] = []
    classes: list[str] = []
    paths: list[str] = []
    labels: list[int] = []
    for name in sorted(entry.name for entry in folder.iterdir() if not is_tool_made(entry.name)):
        if not (folder / name).is_dir():
            if not remote and os.path.islink(folder / name):
                dangling += [] if os.path.exists(folder / name) else [str(folder / name)]
            continue
        found = _in_bucket(folder / name) if remote else files_under(str(folder / name))
        images = sorted(path for path in found.files if PurePath(path).suffix.lower() in image_suffixes())
        others = sorted(set(found.files) - set(images))
        dangling += found.dangling
        left_out += others
        if not images and not found.dangling:
            kinds = f" (nor are {_kinds(others)} read)" if others else ""
            raise ValueError(f"no image file under {folder / name}{kinds}")
        labels += [len(classes)] * len(images)
        paths += images
        classes.append(_printable(name))
    if dangling:
        raise FileNotFoundError(f"{len(dangling)} links in {folder} lead nowhere, e.g. {dangling[0]}")
    if not paths:
        raise ValueError(f"{folder} has no class directories (expected {folder.name}/{_EXPECTED})")
    if left_out:
        logging.warning(
            "%d files in %s are left out, of formats that are not read: %s, e.g. %s",
            len(left_out),
            folder,
            _kinds(left_out),
            left_out[0],
        )
    return paths, np.asarray(labels, np.int32), classes


def _kinds(paths: list[str]) -> str:
    """3 .heic, 1 .txt"""
    counts = Counter(PurePath(path).suffix.lower() or "without suffix" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())


def _in_bucket(folder: epath.Path) -> Found:
    """A bucket has no directories to walk into: there the images lie in CLASS itself."""
    return Found([str(path) for path in folder.iterdir() if not is_tool_made(path.name)], [])
