"""Data sets that TFDS has prepared, read undecoded. Importing this module imports tensorflow_datasets."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from eca_jax.data.order import StreamOrder
from eca_jax.data.runtime import Dataset, Tensor, tensorflow
from eca_jax.data.sources.random_access import RandomAccess
from eca_jax.data.sources.source import SPLITS, Label, Row, Source, of_split

# Places for the right classes of an example that may have several.
MOST_LABELS = 64


def record_source(
    builder: tfds.core.DatasetBuilder,
    splits: Sequence[str] = SPLITS,
    label: str = "label",
    names: Mapping[str, str] | None = None,
) -> Source:
    """A prepared data set of "image" and a label, in TFRecord or ArrayRecord files.

    Args:
      splits: which of "train" and "validation" must be there.
      label: the feature that is the label: a class, or a sequence of classes that are all right.
      names: what the data set calls our splits; by default the same.

    Raises:
      ValueError: another file format.
      FileNotFoundError: one of `splits` ("train", "validation") is not prepared.
    """
    formats: dict[str, Callable[[tfds.core.DatasetBuilder, str, Mapping[str, str]], Source]] = {
        "tfrecord": TFRecordSource,
        "array_record": ArrayRecordSource,
    }
    stored = builder.info.file_format.value
    if stored not in formats:
        raise ValueError(f"{builder.data_path} is stored as {stored}; {' and '.join(formats)} are read")
    names = names or {split: split for split in SPLITS}
    missing = [split for split in splits if names.get(split) not in builder.info.splits]
    if missing:
        raise FileNotFoundError(f"{builder.data_path} has no {missing[0]} split: prepare it again with both tars")
    return formats[stored](builder, label, names)


class _Records:
    """What both formats have in common."""

    def __init__(self, builder: tfds.core.DatasetBuilder, label: str, names: Mapping[str, str]):
        feature = builder.info.features[label]
        several = isinstance(feature, tfds.features.Sequence)
        classes = feature.feature if several else feature
        self.name = builder.name
        self.class_names = classes.names
        self.num_classes = classes.num_classes
        self.label_shape: tuple[int, ...] = (MOST_LABELS,) if several else ()
        self._builder = builder
        self._label = label
        self._names = {split: name for split, name in names.items() if name in builder.info.splits}
        self._splits = {split: builder.info.splits[name] for split, name in self._names.items()}
        self._files = {split: [str(path) for path in info.filepaths] for split, info in self._splits.items()}

    @property
    def found(self) -> list[str]:
        """The number of images of each split."""
        sides = " and ".join(f"{split.num_examples:,} {name}" for name, split in self._splits.items())
        return [f"{self.num_classes} classes, {sides} images"]

    def num_examples(self, split: str) -> int:
        """Number of examples; ValueError for an unknown split."""
        return of_split(self._splits, split).num_examples

    def describe(self, split: str, index: int) -> str:
        """Shard and record of an example, and the name that the image had before it came there."""
        ends = np.cumsum(of_split(self._splits, split).shard_lengths)
        shard = int(np.searchsorted(ends, index, side="right"))
        record = int(index - (ends[shard - 1] if shard else 0))
        where = f"record {record} of {self._files[split][shard]}"
        if "file_name" not in self._builder.info.features:
            return where
        return f"{self._file_name(split, index, shard, record)} ({where})"

    def check(self, split: str) -> None:
        """Nothing: TFDS looked at the images when it wrote them, and to read them all again is not quick."""

    def _file_name(self, split: str, index: int, shard: int, record: int) -> str:
        raise NotImplementedError


class ArrayRecordSource(_Records, RandomAccess):
    """Records that are read by their index."""

    def __init__(self, builder: tfds.core.DatasetBuilder, label: str, names: Mapping[str, str]):
        super().__init__(builder, label, names)
        decoders = {"image": tfds.decode.SkipDecoding()}
        self._records = {s: builder.as_data_source(name, decoders=decoders) for s, name in self._names.items()}

    def _reader(self, split: str) -> Callable[[int], tuple[bytes, Label]]:
        return functools.partial(self._read, of_split(self._records, split))

    def _read(self, records: Sequence[dict[str, Any]], index: int) -> tuple[bytes, Label]:
        try:
            example = records[index]
        except Exception as error:  # the reader's own kinds, of which none is an OSError
            raise OSError(f"record {index}: {error}") from None
        label = np.asarray(example[self._label], np.int32)
        if not self.label_shape:
            return example["image"], int(label)
        return example["image"], np.pad(label, (0, MOST_LABELS - len(label)), constant_values=-1)

    def _file_name(self, split: str, index: int, shard: int, record: int) -> str:
        return self._records[split][index]["file_name"].decode()


class TFRecordSource(_Records):
    """Records in files that are only fast to read from start to end, by tf.data; see `StreamOrder`."""

    def _file_name(self, split: str, index: int, shard: int, record: int) -> str:
        tf = tensorflow()
        (serialized,) = tf.data.TFRecordDataset(self._files[split][shard]).skip(record).take(1)
        name = tf.io.parse_single_example(serialized, {"file_name": tf.io.FixedLenFeature([], tf.string)})
        return name["file_name"].numpy().decode()

    def train_rows(
        self,
        batch_size: int,
        seed: int,
        start_step: int,
        first_row: int,
        num_rows: int,
        *,
        repeats: int = 1,
        window: int = 1,
    ) -> Iterator[Row]:
        """See `Source`."""
        tf = tensorflow()
        order = StreamOrder(tuple(self._splits["train"].shard_lengths), batch_size, window, repeats)
        first_stream = first_row // order.rows
        num_streams = -(-(first_row + num_rows) // order.rows) - first_stream
        first_epoch, first_step = divmod(start_step, order.steps)

        def plan_of(epoch: int, stream: int) -> tuple[Any, ...]:
            return order.plan(seed, int(epoch), int(stream), first_step if epoch == first_epoch else 0)

        def stream_rows(stream: Tensor) -> Dataset:
            """All epochs of one stream; the block that is being emitted and the next one are in memory."""
            epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
            return epochs.flat_map(lambda epoch: epoch_blocks(epoch, stream)).prefetch(1).unbatch()

        def epoch_blocks(epoch: Tensor, stream: Tensor) -> Dataset:
            *plan, dropped = tf.numpy_function(plan_of, [epoch, stream], [tf.int64] * 6)
            *segments, positions = (tf.ensure_shape(column, [None]) for column in plan)
            segments = tf.data.Dataset.from_tensor_slices(tuple(segments))
            blocks = segments.flat_map(self._reader("train")).batch(order.block)
            orders = tf.data.Dataset.from_tensor_slices(positions).batch(order.block * repeats)

            def shuffle(number: Tensor, block: dict[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
                copies = tf.range(tf.size(positions)) % repeats
                left = slice(tf.where(number == 0, tf.ensure_shape(dropped, []), 0), None)
                rows = tf.nest.map_structure(lambda column: tf.gather(column, positions[left]), block)
                return rows | {"epoch": tf.fill(tf.shape(positions[left]), epoch), "copy": copies[left]}

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
        return self._rows(rows, num_rows)

    def eval_rows(self, split: str, start: int, stop: int) -> Iterator[Row]:
        """See `Source`."""
        tf = tensorflow()
        lengths = np.asarray(of_split(self._splits, split).shard_lengths, np.int64)
        starts = np.cumsum(lengths) - lengths
        skip = np.clip(start - starts, 0, lengths)
        take = np.clip(stop - starts, 0, lengths) - skip
        some = np.flatnonzero(take > 0)
        segments = tf.data.Dataset.from_tensor_slices((some, skip[some], take[some], (starts + skip)[some]))
        rows = segments.interleave(
            self._reader(split), cycle_length=16, block_length=16, num_parallel_calls=16, deterministic=True
        )
        return self._rows(rows.map(lambda row: row | {"epoch": tf.constant(0, tf.int64), "copy": tf.constant(0)}), 64)

    def _rows(self, records: Dataset, at_once: int) -> Iterator[Row]:
        """The stream's elements, of which `at_once` are handed over from TensorFlow at a time."""
        tf = tensorflow()
        features, undecoded = self._builder.info.features, {"image": tfds.decode.SkipDecoding()}

        def parse(row: dict[str, Tensor]) -> tuple[Tensor, ...]:
            example = features.deserialize_example(row["record"], decoders=undecoded)
            label = example[self._label]
            if self.label_shape:
                label = tf.pad(label, [[0, MOST_LABELS - tf.size(label)]], constant_values=-1)
            return row["index"], row["epoch"], row["copy"], example["image"], label

        options = tf.data.Options()
        options.deterministic = True
        options.threading.max_intra_op_parallelism = 1
        batches = records.map(parse, num_parallel_calls=2).batch(at_once).prefetch(1).with_options(options)
        read_error = tf.errors.OpError  # looked up now: at the interpreter's exit the module may be gone
        try:
            for batch in batches.as_numpy_iterator():
                for index, epoch, copy, image, label in zip(*batch, strict=True):
                    yield Row(int(index), int(epoch), int(copy), functools.partial(_keep, image, label))
        except read_error as error:
            raise OSError(error.message.splitlines()[0]) from None

    def _reader(self, split: str) -> Callable[..., Dataset]:
        """Function from a segment (shard, skip, take, index of its first record) to its records."""
        tf = tensorflow()
        files = tf.constant(self._files[split])

        def read(shard: Tensor, skip: Tensor, take: Tensor, first_index: Tensor) -> Dataset:
            records = tf.data.TFRecordDataset(tf.gather(files, shard), buffer_size=1 << 20)
            return (
                records.skip(skip)
                .take(take)
                .enumerate(first_index)
                .map(lambda index, record: {"index": index, "record": record})
            )

        return read


def _keep(image: bytes, label: Label) -> tuple[bytes, Label]:
    return image, label


def imagenet_builder(data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    """The builder of a prepared imagenet2012; FileNotFoundError says how to prepare it."""
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


def prepared_builder(name: str, data_dir: str | os.PathLike | None) -> tfds.core.DatasetBuilder:
    """The builder of a data set that TFDS has prepared; FileNotFoundError says how to prepare it."""
    arguments = {} if data_dir is None else {"data_dir": os.path.expanduser(data_dir)}
    builder = tfds.builder(name, try_gcs=False, **arguments)
    if not builder.is_prepared():
        argument = "" if data_dir is None else f", data_dir={str(data_dir)!r}"
        tar = "put ILSVRC2012_img_val.tar in ~/tensorflow_datasets/downloads/manual and " if "real" in name else ""
        raise FileNotFoundError(
            f"{name} is not prepared in {builder.data_path}; {tar}run: "
            f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{argument}).download_and_prepare()"'
        )
    return builder
