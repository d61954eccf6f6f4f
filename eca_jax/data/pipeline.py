"""From encoded rows to batches: decode, crop, batch, and put a blank row wherever an image cannot be decoded."""

import logging
import os
from collections.abc import Iterator

import numpy as np

from eca_jax.data import augment, order, resize
from eca_jax.data.preprocess import check_interpolation
from eca_jax.data.runtime import tensorflow
from eca_jax.data.sources.source import Source

# Encoded images that are shuffled with each other where storage is sequential; at ImageNet's 110 KB an image, and with
# one block read ahead, 3.6 GB of host memory for one process, divided by the number of processes.
SHUFFLE_WINDOW = 16384

_MAX_SEED = 2**31


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Full global batches in one epoch of `source`'s training split."""
    return order.steps_per_epoch(source.num_examples("train"), batch_size)


def train_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
    interpolation: str = "bilinear",
    process_index: int = 0,
    process_count: int = 1,
    shuffle_window: int = SHUFFLE_WINDOW,
    num_workers: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless augmented training batches: this process's rows of every global batch.

    The order is a pure function of (seed, epoch), the augmentation of (seed, epoch, example index): every process
    count, worker count and start_step gives the same rows. Each epoch has `steps_per_epoch` batches and its own order.

    Args:
      source: see `load_source`.
      batch_size: examples in a global batch.
      image_size: side of the square images.
      seed: 0 to 2**31 - 1.
      start_step: batches of the run to skip; what is skipped is never decoded.
      crop_scale: area of the random crop, as fractions (low, high) of the image's.
      crop_ratio: aspect ratio (width / height) of the random crop, (low, high).
      flip: mirror half of the images.
      interpolation: "bilinear" or "bicubic".
      process_index, process_count: which rows: [index * b, (index + 1) * b) with b = batch_size / process_count.
      shuffle_window: examples that are shuffled with each other where storage is sequential (TFDS records); a folder
        tree is permuted as a whole.
      num_workers: threads that decode; by default one for each CPU that this process may use.

    Yields:
      dict of read-only arrays: "image" uint8 [b, image_size, image_size, 3]; "label" int32 [b]; "mask" float32 [b], 0
      where the image could not be decoded (its pixels and label are 0, its row stays in place, and its name is logged).

    Raises:
      ValueError: arguments that do not fit together; while iterating, a file that cannot be read any more.
    """
    tf = tensorflow()
    num_rows = _local_rows(batch_size, process_index, process_count)
    check_interpolation(interpolation)
    _check_range("crop_scale", crop_scale, 1.0)
    _check_range("crop_ratio", crop_ratio, float("inf"))
    if not 0 <= seed < _MAX_SEED:
        raise ValueError(f"seed must be from 0 to {_MAX_SEED - 1}, not {seed}")
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, not {start_step}")
    steps_per_epoch(source, batch_size)  # refuses a batch larger than the split

    def example(row):
        encoded, label = source.parse(row)
        key = tf.stack([seed * _MAX_SEED + row["epoch"], row["index"]])
        draws = tf.random.stateless_uniform([augment.DRAWS], seed=key, alg="philox")
        image = augment.training_image(
            encoded,
            draws,
            image_size=image_size,
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            flip=flip,
            interpolation=interpolation,
        )
        return image, label

    rows = source.train_rows(batch_size, seed, start_step, process_index * num_rows, num_rows, shuffle_window)
    batches = _decoded_batches(rows, example, num_rows, image_size, num_workers)
    return _named_warnings(source, _one_line_errors(source, batches))


def eval_batches(
    source: Source,
    split: str = "validation",
    *,
    batch_size: int,
    image_size: int,
    resize_size: int,
    interpolation: str = "bilinear",
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """One pass over a split, each example exactly once: resize the short side, crop the centre, as torchvision on PIL.

    Every process reads its own part of the split and yields the same number of batches; what is missing from the last
    ones is padded with zeros.

    Args:
      batch_size: global batch; this process yields batch_size / process_count rows at a time.
      image_size, resize_size: side of the central crop, length of the short side before it.
      interpolation, process_index, process_count, num_workers: as for `train_batches`.

    Yields:
      dicts as `train_batches` yields; "mask" is 0 for padding alone.

    Raises:
      ValueError: while iterating, an image that cannot be read or decoded, named in the message.
    """
    num_rows = _local_rows(batch_size, process_index, process_count)
    check_interpolation(interpolation)
    total = source.num_examples(split)
    start, stop = (total * p // process_count for p in (process_index, process_index + 1))
    largest_part = -(-total // process_count)

    def example(row):
        encoded, label = source.parse(row)
        image = resize.evaluation_image(
            encoded, image_size=image_size, resize_size=resize_size, interpolation=interpolation
        )
        return image, label

    rows = source.eval_rows(split, start, stop)
    batches = _decoded_batches(rows, example, num_rows, image_size, num_workers)
    return _padded(source, split, _one_line_errors(source, batches), num_rows, image_size, -(-largest_part // num_rows))


def _decoded_batches(rows, example, num_rows, image_size, num_workers):
    """Batches of `num_rows` decoded rows (the last may be smaller): image, label, mask and index.

    tf.data can drop an element whose decoding fails, but drops as silently every other error of the pipeline, and
    nothing tells where in the order it stood. So each batch of encoded rows is decoded by a little dataset of its own,
    inside which errors are dropped, and its rows are numbered: the missing ones are left blank. Two such batches are
    in work at a time.
    """
    tf = tensorflow()
    workers = num_workers or _usable_cpus()

    def decode_batch(encoded):
        size = tf.shape(encoded["index"], out_type=tf.int64)[0]

        def decode_row(number, row):
            image, label = example(row)
            return number, image, tf.cast(label, tf.int32)

        nothing = (
            tf.zeros([0], tf.int64),
            tf.zeros([0, image_size, image_size, 3], tf.uint8),
            tf.zeros([0], tf.int32),
        )
        decoded = (
            tf.data.Dataset.from_tensor_slices(encoded)
            .enumerate()
            .map(decode_row, num_parallel_calls=workers, deterministic=True)
            .ignore_errors()
            .batch(num_rows)
            .concatenate(tf.data.Dataset.from_tensors(nothing))  # in case that none can be decoded
            .take(1)
        )

        def fill_gaps(numbers, image, label):
            def scatter(values):
                shape = tf.concat([[size], tf.shape(values, out_type=tf.int64)[1:]], axis=0)
                return tf.scatter_nd(numbers[:, None], values, shape)

            mask = tf.ones_like(numbers, tf.float32)
            complete = tf.size(numbers, out_type=tf.int64) == size
            image, label, mask = tf.cond(
                complete,
                lambda: (image, label, mask),
                lambda: (scatter(image), scatter(label), scatter(mask)),
            )
            return {"image": image, "label": label, "mask": mask, "index": encoded["index"]}

        return decoded.map(fill_gaps)

    batches = (
        rows.batch(num_rows)
        .interleave(decode_batch, cycle_length=2, block_length=1, num_parallel_calls=2, deterministic=True)
        .prefetch(2)
    )
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1
    return batches.with_options(options).as_numpy_iterator()


def _one_line_errors(source, batches):
    """Passes batches on. Decoding errors never get here: what does is storage that cannot be read any more."""
    read_error = tensorflow().errors.OpError  # looked up now: at the interpreter's exit the module may be gone
    try:
        yield from batches
    except read_error as error:
        raise ValueError(f"cannot read {source.name}: {error.message.splitlines()[0]}") from None


def _named_warnings(source, batches):
    """Passes training batches on; logs the name of each undecodable example when it is first met."""
    seen = set()
    for batch in batches:
        indices = batch.pop("index")
        for index in indices[batch["mask"] == 0].tolist():
            if index not in seen:
                seen.add(index)
                logging.warning("skipping an image that cannot be decoded: %s", source.describe("train", index))
        yield batch


def _padded(source, split, batches, num_rows, image_size, num_batches):
    """Fills the last batch up and adds empty ones to `num_batches`; an undecodable example is an error."""
    for _ in range(num_batches):
        batch = next(batches, None)
        if batch is None:
            batch = {
                "image": np.zeros((0, image_size, image_size, 3), np.uint8),
                "label": np.zeros(0, np.int32),
                "mask": np.zeros(0, np.float32),
                "index": np.zeros(0, np.int64),
            }
        indices = batch.pop("index")
        corrupt = indices[batch["mask"] == 0]
        if len(corrupt):
            raise ValueError(f"cannot decode {split} image {source.describe(split, int(corrupt[0]))}")
        missing = num_rows - len(indices)
        if missing:
            batch = {key: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}
        yield batch


def _usable_cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _local_rows(batch_size, process_index, process_count):
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size {batch_size} must be a positive multiple of the {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below process_count {process_count}")
    return batch_size // process_count


def _check_range(name, bounds, maximum):
    low, high = bounds
    if not 0 < low <= high <= maximum:
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high <= {maximum}, not {tuple(bounds)}")
