"""A tree of image files, one directory a class."""

import os
from collections.abc import Iterator

import numpy as np
from etils import epath

from eca_jax.data.order import permuted_rows, steps_per_epoch
from eca_jax.data.runtime import Dataset, Row, Tensor, tensorflow
from eca_jax.data.sources.source import SPLITS, of_split

_EXTENSIONS = (".jpeg", ".jpg", ".png")


class FolderSource:
    """`train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`; classes are numbered in sorted order, as torchvision does."""

    def __init__(self, root: str | os.PathLike):
        self.name = "folder"
        self.root = epath.Path(root).expanduser()
        self._paths, self._labels, classes = {}, {}, {}
        for split, folder in zip(SPLITS, ("train", "val"), strict=True):
            self._paths[split], self._labels[split], classes[split] = _scan(self.root / folder)
        self.class_names = classes["train"]
        self.num_classes = len(self.class_names)
        differing = sorted(set(classes["train"]) ^ set(classes["validation"]))
        if differing:
            raise ValueError(
                f"{self.root}: train and val must have the same classes; "
                f"{len(differing)} are in one of them only, e.g. {differing[0]!r}"
            )

    def num_examples(self, split: str) -> int:
        return len(of_split(self._paths, split))

    def describe(self, split: str, index: int) -> str:
        return of_split(self._paths, split)[index]

    def train_rows(
        self, batch_size: int, seed: int, start_step: int, first_row: int, num_rows: int, window: int
    ) -> Dataset:
        tf = tensorflow()
        count = self.num_examples("train")
        steps = steps_per_epoch(count, batch_size)

        first_epoch, first_step = divmod(start_step, steps)

        def own_rows(epoch):
            order = permuted_rows(count, batch_size, seed, int(epoch))
            first = first_step if epoch == first_epoch else 0
            return order[first:, first_row : first_row + num_rows].reshape(-1)

        def rows_of(epoch):
            order = tf.numpy_function(own_rows, [epoch], tf.int64)
            indices = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(order, [None]))
            return indices.map(lambda index: {"index": index, "epoch": epoch})

        rows = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(rows_of)
        return self._read("train", rows)

    def eval_rows(self, split: str, start: int, stop: int) -> Dataset:
        tf = tensorflow()
        return self._read(split, tf.data.Dataset.range(start, stop).map(lambda index: {"index": index}))

    def parse(self, row: Row) -> tuple[Tensor, Tensor]:
        return row["encoded"], row["label"]

    def _read(self, split, rows):
        """Adds the file's bytes and label. A file that has gone is an error of the run, not a corrupt image."""
        tf = tensorflow()
        paths, labels = tf.constant(self._paths[split]), tf.constant(self._labels[split])

        def read(row):
            return row | {
                "encoded": tf.io.read_file(tf.gather(paths, row["index"])),
                "label": tf.gather(labels, row["index"]),
            }

        return rows.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _scan(folder: epath.Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Paths, labels int32 and class names of one half of a folder tree, in torchvision's order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: {folder} (expected {folder.name}/CLASS/*.JPEG, .jpg or .png)")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(_images_under(folder / name))
        if not found:
            raise ValueError(f"no .JPEG, .jpg or .png file under {folder / name}")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(f"{folder} has no class directories (expected {folder.name}/CLASS/*.JPEG, .jpg or .png)")
    return paths, np.asarray(labels, np.int32), classes


def _images_under(folder: epath.Path) -> Iterator[str]:
    if "://" in str(folder):  # a bucket has no directories to walk into: there the images lie in CLASS itself
        tree = [(str(folder), [], [path.name for path in folder.iterdir()])]
    else:
        tree = os.walk(folder, followlinks=True)
    for directory, _, names in tree:
        yield from (os.path.join(directory, n) for n in names if n.lower().endswith(_EXTENSIONS))
