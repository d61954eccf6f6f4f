"""COCO as TFDS has prepared it: the images of its TFRecord files, the objects of COCO's own JSON.

TFDS keeps no masks, and areas and boxes that are rounded, so that neither Mask R-CNN nor an evaluation could go by it.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eca_jax.data.runtime import tensorflow
from eca_jax.data.sources.checked import Encoded
from eca_jax.data.sources.coco import CocoSource
from eca_jax.data.workers import Workers, usable_cpus

# Before and after a record of a TFRecord file: its length and that number's checksum; its own checksum.
HEADER, FOOTER = 12, 4


class Record(NamedTuple):
    """The image in a record of a file: what a `CheckedImage` reads in place of a file of its own."""

    file: Path
    offset: int
    length: int

    def __str__(self) -> str:
        return f"the record at {self.offset} of {self.file}"

    def read_bytes(self) -> bytes:
        with self.file.open("rb") as file:
            file.seek(self.offset)
            record = tensorflow().train.Example.FromString(file.read(self.length))
            return bytes(record.features.feature["image"].bytes_list.value[0])


class TfdsCocoSource(CocoSource):
    """`coco/2017` of TFDS, in TFRecord files, and beside it `annotations/instances_{train,val}2017.json`.

    Which record is which image is found once, by passing over the files: of each record a kilobyte or two are read.
    Otherwise as `CocoSource`; images of the JSON that TFDS does not have are left out and counted.

    Raises:
      FileNotFoundError: TFDS has not prepared it there, or there is no JSON.
      ValueError: it is in files of another kind, or what `CocoSource` raises.
      ImportError: TensorFlow Datasets is not installed.
    """

    name = "coco/2017"

    def __init__(
        self,
        data_dir: str | os.PathLike = "",
        *,
        by_order: bool = False,
        splits: Sequence[str] = ("train", "validation"),
    ) -> None:
        """`data_dir` is TFDS's; "" is `~/tensorflow_datasets`."""
        tensorflow()
        from eca_jax.data.sources.records import prepared_builder

        self._builder = prepared_builder(self.name, data_dir or None)
        if self._builder.info.file_format.value != "tfrecord":
            kind = self._builder.info.file_format.value
            raise ValueError(f"{self.name} in {self._builder.data_path} is in files of {kind}, not TFRecord")
        # data_dir / coco / 2017 / version
        super().__init__(Path(self._builder.data_path).parents[2], by_order=by_order, splits=splits)

    def _images_of(self, split: str) -> Callable[[Any], Encoded | None]:
        files = map(Path, self._builder.info.splits[split].filepaths)
        with Workers(usable_cpus()) as pool:
            records = dict(itertools.chain.from_iterable(pool.map(_numbered, files)))
        return lambda image: records.get(image["id"])


def _numbered(path: Path) -> list[tuple[int, Record]]:
    """Every record of a TFRecord file with its image's id; the images in it are passed over, not read.

    Raises ValueError where the file ends too soon, or has a record that is none of TFDS's.
    """
    found: list[tuple[int, Record]] = []
    with path.open("rb", buffering=0) as file:
        size, content, at = file.seek(0, os.SEEK_END), Pieces(file.fileno()), 0
        while at < size:
            offset = at + HEADER
            length = int.from_bytes(content[at : at + 8], "little")
            at = offset + length + FOOTER
            if at > size:
                raise ValueError(f"{path} is truncated")
            record = Record(path, offset, length)
            try:
                found.append((_image_id(content, offset, offset + length), record))
            except (IndexError, KeyError):
                raise ValueError(f"{record} is no example of {TfdsCocoSource.name}") from None
    return found


class Pieces:
    """An open file as bytes, of which those around what is asked for are read."""

    SIZE = 1024

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._first, self._piece = descriptor, 0, b""

    def __getitem__(self, place: slice) -> bytes:
        """Fewer bytes at the file's end."""
        first = place.start - self._first
        if first < 0 or place.stop - self._first > len(self._piece):
            self._piece = os.pread(self._descriptor, max(self.SIZE, place.stop - place.start), place.start)
            self._first, first = place.start, 0
        return self._piece[first : first + place.stop - place.start]


# The first place of a field's content, and its end.
Place = tuple[int, int]


def _image_id(content: Pieces, at: int, end: int) -> int:
    """`image/id` of the `tf.train.Example` that lies there, without reading its other features.

    Raises IndexError or KeyError where there is none.
    """
    # Example.features, then Features.feature, a map, whose entries are a name and a Feature.
    for _, entry in _fields(content, *dict(_fields(content, at, end))[1]):
        name, feature = (dict(_fields(content, *entry))[number] for number in (1, 2))
        if content[slice(*name)] == b"image/id":
            # Feature.int64_list, then Int64List.value, packed.
            numbers = dict(_fields(content, *feature))[3]
            return _varint(content, dict(_fields(content, *numbers))[1][0])[0]
    raise KeyError("image/id")


def _fields(content: Pieces, at: int, end: int) -> Iterator[tuple[int, Place]]:
    """Every field of a protobuf message whose fields are messages, strings or bytes: its number and place."""
    while at < end:
        key, at = _varint(content, at)
        length, at = _varint(content, at)
        if key & 7 != 2 or at + length > end:
            raise IndexError("it is no such message")
        yield key >> 3, (at, at + length)
        at += length


def _varint(content: Pieces, at: int) -> tuple[int, int]:
    """An unsigned number of seven bits a byte, the low ones first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at + shift // 7 : at + shift // 7 + 1][0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + shift // 7 + 1
    raise IndexError("it is no number")
