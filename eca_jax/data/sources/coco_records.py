"""COCO as TFDS has prepared it: the images of its TFRecord files, the objects of COCO's own JSON.

TFDS keeps no masks, and areas and boxes that are rounded, so that neither Mask R-CNN nor an evaluation could go by it.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eca_jax.data.runtime import tensorflow
from eca_jax.data.sources.checked import Encoded
from eca_jax.data.sources.coco import CocoSource

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
            return bytes(_feature(file.read(self.length), "image").bytes_list.value[0])


class TfdsCocoSource(CocoSource):
    """`coco/2017` of TFDS, in TFRecord files, and beside it `annotations/instances_{train,val}2017.json`.

    Which record is which image is found by reading the files once. Otherwise as `CocoSource`; images of the JSON that
    TFDS does not have are left out and counted.

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
        records = {}
        for path in map(Path, self._builder.info.splits[split].filepaths):
            for offset, length, content in _records(path):
                number = _feature(content, "image/id").int64_list.value[0]
                records[number] = Record(path, offset, length)
        return lambda image: records.get(image["id"])


def _records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Place, length and content of every record of a TFRecord file. Raises ValueError where it ends too soon."""
    with path.open("rb") as file:
        while header := file.read(HEADER):
            offset = file.tell()
            length = struct.unpack("<Q", header[:8])[0] if len(header) == HEADER else 0
            content = file.read(length)
            if len(header) < HEADER or len(content) < length or len(file.read(FOOTER)) < FOOTER:
                raise ValueError(f"{path} is truncated")
            yield offset, length, content


def _feature(record: bytes, name: str) -> Any:
    return tensorflow().train.Example.FromString(record).features.feature[name]
