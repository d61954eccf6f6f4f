"""Where encoded images come from: TFDS records or a folder tree, behind one interface.

A source names its classes and counts its examples, and gives tf.data streams of *encoded* rows in a given order.
Decoding is the pipeline's business, so whatever a resumed run skips is never decoded.
"""

import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from etils import epath

from eca_jax.data.order import StreamOrder, permuted_rows, steps_per_epoch
from eca_jax.data.runtime import tensorflow

SPLITS = ("train", "validation")
_EXTENSIONS = (".jpeg", ".jpg", ".png")


class Source(Protocol):
    """A labelled image data set with the splits "train" and "validation"."""

    name: str
    num_classes: int
    class_names: list[str]

    def num_examples(self, split: str) -> int:
        """Number of examples; ValueError for an unknown split."""

    def describe(self, split: str, index: int) -> str:
        """Where an example is stored, for messages to people."""

    def train_rows(self, batch_size, seed, start_step, first_row, num_rows, window):
        """Endless tf.data stream of encoded rows, `num_rows` of each global batch from `first_row` on.

        Elements are dicts with int64 "index" (of the example in the split) and "epoch", and what `parse` needs.
        """

    def eval_rows(self, split, start, stop):
        """tf.data stream of the encoded examples `start` to `stop` - 1, each once, in a fixed order."""

    def parse(self, row):
        """(encoded image, label) of one row: string scalar, integer scalar."""


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
        return len(_of_split(self._paths, split))

    def describe(self, split: str, index: int) -> str:
        return _of_split(self._paths, split)[index]

    def train_rows(self, batch_size, seed, start_step, first_row, num_rows, window):
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

    def eval_rows(self, split, start, stop):
        tf = tensorflow()
        return self._read(split, tf.data.Dataset.range(start, stop).map(lambda index: {"index": index}))

    def parse(self, row):
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


class RecordSource:
    """A prepared TFDS dataset of "image" and "label" with the splits "train" and "validation", read undecoded."""

    def __init__(self, builder):
        self.name = builder.name
        self.class_names = builder.info.features["label"].names
        self.num_classes = builder.info.features["label"].num_classes
        self._builder = builder
        if builder.info.file_format.value != "tfrecord":
            raise ValueError(
                f"{builder.data_path} is stored as {builder.info.file_format.value}; only tfrecord is read"
            )
        self._splits = {split: builder.info.splits[split] for split in SPLITS if split in builder.info.splits}
        missing = [split for split in SPLITS if split not in self._splits]
        if missing:
            raise FileNotFoundError(f"{builder.data_path} has no {missing[0]} split: prepare it again with both tars")
        self._files = {split: [str(path) for path in info.filepaths] for split, info in self._splits.items()}

    def num_examples(self, split: str) -> int:
        return _of_split(self._splits, split).num_examples

    def describe(self, split: str, index: int) -> str:
        shard, record = self._locate(split, index)
        where = f"record {record} of {self._files[split][shard]}"
        if "file_name" not in self._builder.info.features:
            return where
        tf = tensorflow()
        (serialized,) = tf.data.TFRecordDataset(self._files[split][shard]).skip(record).take(1)
        name = tf.io.parse_single_example(serialized, {"file_name": tf.io.FixedLenFeature([], tf.string)})
        return f"{name['file_name'].numpy().decode()} ({where})"

    def train_rows(self, batch_size, seed, start_step, first_row, num_rows, window):
        tf = tensorflow()
        order = StreamOrder(tuple(self._splits["train"].shard_lengths), batch_size, window)
        first_stream = first_row // order.rows
        num_streams = -(-(first_row + num_rows) // order.rows) - first_stream
        first_epoch, first_step = divmod(start_step, order.steps)

        def plan_of(epoch, stream):
            return order.plan(seed, int(epoch), int(stream), first_step if epoch == first_epoch else 0)

        def stream_rows(stream):
            """All epochs of one stream; the block that is being emitted and the next one are in memory."""
            epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
            return epochs.flat_map(lambda epoch: epoch_blocks(epoch, stream)).prefetch(1).unbatch()

        def epoch_blocks(epoch, stream):
            *plan, dropped = tf.numpy_function(plan_of, [epoch, stream], [tf.int64] * 6)
            *segments, positions = (tf.ensure_shape(column, [None]) for column in plan)
            segments = tf.data.Dataset.from_tensor_slices(tuple(segments))
            blocks = segments.flat_map(self._reader("train")).batch(order.block)
            orders = tf.data.Dataset.from_tensor_slices(positions).batch(order.block)

            def shuffle(number, block, positions):
                positions = positions[tf.where(number == 0, tf.ensure_shape(dropped, []), 0) :]
                rows = tf.nest.map_structure(lambda column: tf.gather(column, positions), block)
                return rows | {"epoch": tf.fill(tf.shape(positions), epoch)}

            blocks = tf.data.Dataset.zip(tf.data.Dataset.range(tf.int64.max), blocks, orders)
            return blocks.map(shuffle)

        rows = tf.data.Dataset.range(first_stream, first_stream + num_streams).interleave(
            stream_rows,
            cycle_length=num_streams,
            block_length=order.rows,
            num_parallel_calls=num_streams,
            deterministic=True,
        )
        if num_streams * order.rows != num_rows:  # the process's rows begin or end within a stream's
            steps = rows.batch(num_streams * order.rows)
            surplus = first_row - first_stream * order.rows
            part = slice(surplus, surplus + num_rows)
            rows = steps.map(lambda step: tf.nest.map_structure(lambda column: column[part], step)).unbatch()
        return rows

    def eval_rows(self, split, start, stop):
        tf = tensorflow()
        lengths = np.asarray(_of_split(self._splits, split).shard_lengths, np.int64)
        starts = np.cumsum(lengths) - lengths
        skip = np.clip(start - starts, 0, lengths)
        take = np.clip(stop - starts, 0, lengths) - skip
        some = np.flatnonzero(take > 0)
        segments = tf.data.Dataset.from_tensor_slices((some, skip[some], take[some], (starts + skip)[some]))
        return segments.interleave(
            self._reader(split), cycle_length=16, block_length=16, num_parallel_calls=16, deterministic=True
        )

    def parse(self, row):
        import tensorflow_datasets as tfds

        features = self._builder.info.features
        example = features.deserialize_example(row["record"], decoders={"image": tfds.decode.SkipDecoding()})
        return example["image"], example["label"]

    def _locate(self, split, index):
        ends = np.cumsum(_of_split(self._splits, split).shard_lengths)
        shard = int(np.searchsorted(ends, index, side="right"))
        return shard, int(index - (ends[shard - 1] if shard else 0))

    def _reader(self, split):
        """Function from a segment (shard, skip, take, index of its first record) to its records."""
        tf = tensorflow()
        files = tf.constant(self._files[split])

        def read(shard, skip, take, first_index):
            records = tf.data.TFRecordDataset(tf.gather(files, shard), buffer_size=1 << 20)
            return (
                records.skip(skip)
                .take(take)
                .enumerate(first_index)
                .map(lambda index, record: {"index": index, "record": record})
            )

        return read


def load_source(name: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Opens a data set.

    Args:
      name: "imagenet2012" (as TFDS prepares it), "folder" (an ImageNet-style tree) or "digits" (embedded).
      data_dir: the TFDS directory (default: TFDS's own), the root of the folder tree (required), or where the digits
        are kept (default: the user's cache directory). The first two may be in a bucket: gs://BUCKET/...

    Raises:
      ValueError: unknown name, or a folder tree that is not one.
      FileNotFoundError: the data set is not there; the message says how to prepare it.
    """
    tensorflow()  # before TFDS imports it, and loudly
    if name == "digits":
        from eca_jax.data.digits import prepare_digits

        return RecordSource(prepare_digits(data_dir))
    if name == "folder":
        if data_dir is None:
            raise ValueError(
                "dataset 'folder' needs data_dir: a directory with train/CLASS/*.JPEG and val/CLASS/*.JPEG"
            )
        return FolderSource(data_dir)
    if name == "imagenet2012":
        return RecordSource(_imagenet_builder(data_dir))
    raise ValueError(f"unknown dataset {name!r}: choose imagenet2012, folder or digits")


def _imagenet_builder(data_dir):
    import tensorflow_datasets as tfds

    arguments = {} if data_dir is None else {"data_dir": os.path.expanduser(data_dir)}
    builder = tfds.builder("imagenet2012", try_gcs=False, **arguments)
    if not builder.is_prepared():
        argument = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
        raise FileNotFoundError(
            f"imagenet2012 is not prepared in {builder.data_path.parent.parent}; put ILSVRC2012_img_train.tar and "
            'ILSVRC2012_img_val.tar in MANUAL_DIR and run: python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('imagenet2012'{argument}).download_and_prepare(download_config="
            "tfds.download.DownloadConfig(manual_dir='MANUAL_DIR'))\""
        )
    return builder


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


def _of_split(table, split):
    if split not in table:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    return table[split]
