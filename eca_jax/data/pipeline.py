"""From encoded rows to batches: decode, crop, batch, and put a blank row wherever an image cannot be decoded."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from eca_jax.data import order, resize
from eca_jax.data.augment import (
    HorizontalFlip,
    Moving,
    OnGrey,
    Operation,
    RandomResizedCrop,
    augmented,
    check_interpolation,
    parse,
)
from eca_jax.data.batch import LABEL
from eca_jax.data.decode import mode_of, to_array
from eca_jax.data.decoding import Decoded, blank, decoded_batches, loader
from eca_jax.data.own import OwnBatches
from eca_jax.data.resize import resize_and_crop
from eca_jax.data.sources.source import Row, Source

# Encoded images that are shuffled with each other where storage is sequential; at ImageNet's 110 KB an image, and with
# one block read ahead, 3.6 GB of host memory for one process, divided by the number of processes.
SHUFFLE_WINDOW = 16384

_MAX_SEED = 2**31

# ImageNet's mean colour, with which timm fills what comes in from outside an image.
IMAGENET_MEAN = (124, 116, 104)


def steps_per_epoch(source: Source | OwnBatches, batch_size: int) -> int:
    """Full global batches in one epoch of `source`'s training split."""
    return order.steps_per_epoch(source.num_examples("train"), batch_size)


def train_batches(
    source: Source | OwnBatches,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
    interpolation: str = "bilinear",
    augment: str = "",
    fill: tuple[int, int, int] = IMAGENET_MEAN,
    repeats: int = 1,
    upright: bool = False,
    channels: int = 3,
    cache: str = "",
    cache_bytes: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    shuffle_window: int = SHUFFLE_WINDOW,
    num_workers: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless augmented training batches: this process's rows of every global batch.

    The order is a pure function of (seed, epoch), the augmentation of (seed, epoch, example index, operation): every
    process count, worker count and start_step gives the same rows, and an operation more leaves the draws of the
    others as they are. Each epoch has `steps_per_epoch` batches and its own order.

    Args:
      source: see `load_source`. One that makes its own batches augments and keeps by itself: then what follows
        `start_step` goes unused but for the process, and `augment`, `repeats` and `cache` may not be set.
      batch_size: examples in a global batch.
      image_size: side of the square images.
      seed: 0 to 2**31 - 1.
      start_step: batches of the run to skip; what is skipped is never decoded.
      crop_scale: area of the random crop, as fractions (low, high) of the image's.
      crop_ratio: aspect ratio (width / height) of the random crop, (low, high).
      flip: mirror half of the images.
      interpolation: "bilinear", "bicubic" or "random" (one of the two for each image).
      augment: what follows crop and flip: RandAugment and others, see `eca_jax.data.augment.spec.parse`.
      fill: RGB of what such operations move in from outside.
      repeats: repeated augmentation: so many rows of a batch show each example, every one of them augmented on its
        own. An epoch has as many steps, and meets that part of the examples. Where files can be read in any order the
        copies stand batch_size / repeats rows apart, so that they do not share BatchNorm statistics; of TFRecord
        files beside each other.
      upright: turn pictures as their EXIF orientation says. Published weights were trained without.
      channels: C, 1 for grey, 3 for RGB, 4 for RGBA, of which only grey and RGB know `augment`; a source that makes its
        own batches has any number.
      cache, cache_bytes: what to keep in memory from one epoch to the next, "encoded" files or "decoded" images, and
        how much of it in this process. The same pixels with and without.
      process_index, process_count: which rows: [index * b, (index + 1) * b) with b = batch_size / process_count.
      shuffle_window: examples that are shuffled with each other where storage is sequential (TFDS records); a folder
        tree is permuted as a whole.
      num_workers: threads that decode; by default one for each CPU that this process may use.

    Yields:
      dict of read-only arrays: "image" uint8 [b, image_size, image_size, C]; "label" int32 [b]; "mask" float32 [b], 0
      where the image could not be decoded (its pixels and label are 0, its row stays in place, and its name is logged).

    Raises:
      ValueError: arguments that do not fit together; while iterating, a file that cannot be read any more.
    """
    num_rows = _local_rows(batch_size, process_index, process_count)
    check_interpolation(interpolation)
    _check_range("crop_scale", crop_scale, 1.0)
    _check_range("crop_ratio", crop_ratio, float("inf"))
    if not 0 <= seed < _MAX_SEED:
        raise ValueError(f"seed must be from 0 to {_MAX_SEED - 1}, not {seed}")
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, not {start_step}")
    if not 1 <= repeats <= batch_size:
        raise ValueError(f"repeats must be from 1 to the batch size, not {repeats}")
    steps_per_epoch(source, batch_size)  # refuses a batch larger than the split
    policies = parse(augment, Moving(interpolation, fill))
    if policies and channels not in (1, 3):
        raise ValueError(f"augment knows images of 1 or 3 channels, not of {channels}")
    operations = (
        RandomResizedCrop(image_size, crop_scale, crop_ratio, interpolation),
        *((HorizontalFlip(),) if flip else ()),
        *(map(OnGrey, policies) if channels == 1 else policies),
    )
    _check_names(operations)
    if isinstance(source, OwnBatches):
        if augment or repeats > 1 or cache:
            raise ValueError(f"{source.name} makes its own batches: augment, repeats and cache are not for it")
        return source.train_batches(
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            start_step=start_step,
            channels=channels,
            process_index=process_index,
            process_count=process_count,
        )

    def pixels(row: Row, image: Image.Image) -> np.ndarray:
        return to_array(augmented(image, operations, seed, row.epoch, row.index, row.copy))

    rows = source.train_rows(
        batch_size, seed, start_step, process_index * num_rows, num_rows, repeats=repeats, window=shuffle_window
    )
    load = loader(upright=upright, mode=mode_of(channels), cache=cache, cache_bytes=cache_bytes)
    image_shape = (image_size, image_size, channels)
    batches = decoded_batches(source.name, rows, load, pixels, num_rows, image_shape, num_workers)
    return _named_warnings(source, batches)


def eval_batches(
    source: Source | OwnBatches,
    split: str = "validation",
    *,
    batch_size: int,
    image_size: int,
    resize_size: int,
    interpolation: str = "bilinear",
    upright: bool = False,
    channels: int = 3,
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
      interpolation: "bilinear" or "bicubic".
      upright, channels, process_index, process_count, num_workers: as for `train_batches`.

    Yields:
      dicts as `train_batches` yields; "mask" is 0 for padding alone. "label" is int32 [b, K] where the source's labels
      are several classes that are all right, filled up with -1.

    Raises:
      ValueError: while iterating, an image that cannot be read or decoded, named in the message.
    """
    num_rows = _local_rows(batch_size, process_index, process_count)
    resize.check_interpolation(interpolation)
    if isinstance(source, OwnBatches):
        return source.eval_batches(
            split,
            batch_size=batch_size,
            image_size=image_size,
            channels=channels,
            process_index=process_index,
            process_count=process_count,
        )
    total = source.num_examples(split)
    start, stop = (total * p // process_count for p in (process_index, process_index + 1))
    largest_part = -(-total // process_count)

    def pixels(row: Row, image: Image.Image) -> np.ndarray:
        return resize_and_crop(image, image_size, resize_size, interpolation)

    rows = source.eval_rows(split, start, stop)
    load, image_shape = loader(upright=upright, mode=mode_of(channels)), (image_size, image_size, channels)
    batches = decoded_batches(source.name, rows, load, pixels, num_rows, image_shape, num_workers, source.label_shape)
    return _padded(source, split, batches, num_rows, image_shape, -(-largest_part // num_rows))


def _named_warnings(source: Source, batches: Iterator[Decoded]) -> Iterator[dict[str, np.ndarray]]:
    """Passes training batches on; logs the name of each undecodable example when it is first met."""
    seen: set[int] = set()
    for batch, failures in batches:
        for failure in failures:
            if failure.index not in seen:
                seen.add(failure.index)
                name = source.describe("train", failure.index)
                logging.warning("skipping an image that cannot be decoded: %s (%s)", name, failure.reason)
        yield batch


def _padded(
    source: Source,
    split: str,
    batches: Iterator[Decoded],
    num_rows: int,
    image_shape: tuple[int, int, int],
    num_batches: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Fills the last batch up and adds empty ones to `num_batches`; an undecodable example is an error."""
    for _ in range(num_batches):
        batch, failures = next(batches, None) or (blank(0, image_shape, source.label_shape), [])
        if failures:
            name = source.describe(split, failures[0].index)
            raise ValueError(f"cannot decode {split} image {name}: {failures[0].reason}")
        missing = num_rows - len(batch[LABEL])
        if missing:
            batch = {key: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) for key, value in batch.items()}
        yield batch


def _local_rows(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size {batch_size} must be a positive multiple of the {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below process_count {process_count}")
    return batch_size // process_count


def _check_range(name: str, bounds: tuple[float, float], maximum: float) -> None:
    low, high = bounds
    if not 0 < low <= high <= maximum:
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high <= {maximum}, not {tuple(bounds)}")


def _check_names(operations: Sequence[Operation]) -> None:
    names = [operation.name for operation in operations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"augment names {twice[0]} twice: both would draw the same numbers")
