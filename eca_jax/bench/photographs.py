"""The benchmark's JPEGs as a TFDS data set. Importing this module imports tensorflow_datasets."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds


class BenchPhotographs(tfds.core.GeneratorBasedBuilder):
    """A folder tree's training files, as they are."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, root: Path, **options: Any):
        self._root = root
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted((self._root / "train").glob("*/*.JPEG")):
            yield str(path), {"image": path.read_bytes(), "label": path.parent.name}


def write_records(root: Path, file_format: str) -> tfds.core.DatasetBuilder:
    """Writes the training files of the tree `root` as records into `root`/records: "tfrecord" or "array_record"."""
    builder = BenchPhotographs(root=root, data_dir=str(root / "records"), file_format=file_format)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(None):  # TFDS announces a download; there is none
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=8))
    return tfds.builder_from_directory(str(builder.data_path))
