"""Data sets that TFDS has prepared, read undecoded. Importing this module imports tensorflow_datasets."""

import os

import numpy as np
import tensorflow_datasets as tfds

from eca_jax.data.order import StreamOrder
from eca_jax.data.runtime import Dataset, Row, Tensor, tensorflow
from eca_jax.data.sources.source import SPLITS, of_split


class RecordSource:
    """A prepared TFDS dataset of "image" and "label" with the splits "train" and "validation", read undecoded."""

    def __init__(self, builder: tfds.core.DatasetBuilder):
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
        return of_split(self._splits, split).num_examples

    def describe(self, split: str, index: int) -> str:
        shard, record = self._locate(split, index)
        where = f"record {record} of {self._files[split][shard]}"
        if "file_name" not in self._builder.info.features:
            return where
        tf = tensorflow()
        (serialized,) = tf.data.TFRecordDataset(self._files[split][shard]).skip(record).take(1)
        name = tf.io.parse_single_example(serialized, {"file_name": tf.io.FixedLenFeature([], tf.string)})
        return f"{name['file_name'].numpy().decode()} ({where})"

    def train_rows(
        self, batch_size: int, seed: int, start_step: int, first_row: int, num_rows: int, window: int
    ) -> Dataset:
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

    def eval_rows(self, split: str, start: int, stop: int) -> Dataset:
        tf = tensorflow()
        lengths = np.asarray(of_split(self._splits, split).shard_lengths, np.int64)
        starts = np.cumsum(lengths) - lengths
        skip = np.clip(start - starts, 0, lengths)
        take = np.clip(stop - starts, 0, lengths) - skip
        some = np.flatnonzero(take > 0)
        segments = tf.data.Dataset.from_tensor_slices((some, skip[some], take[some], (starts + skip)[some]))
        return segments.interleave(
            self._reader(split), cycle_length=16, block_length=16, num_parallel_calls=16, deterministic=True
        )

    def parse(self, row: Row) -> tuple[Tensor, Tensor]:
        features = self._builder.info.features
        example = features.deserialize_example(row["record"], decoders={"image": tfds.decode.SkipDecoding()})
        return example["image"], example["label"]

    def _locate(self, split, index):
        ends = np.cumsum(of_split(self._splits, split).shard_lengths)
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
