"""Batches of images with objects: resized onto a canvas, mirrored, with padded boxes, labels and masks.

Pure NumPy and Pillow. The order is a pure function of (seed, epoch), mirroring of (seed, epoch, example).
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from eca_jax.data.batch import IMAGE, MASK
from eca_jax.data.order import epoch_rng, permuted_rows, steps_per_epoch
from eca_jax.data.sources.coco import Example, ObjectSource

# A batch's arrays beside `IMAGE` uint8 [N, H, W, 3] and `MASK` float32 [N]: `SIZE` int32 [N, 2], the image's height and
# width on its canvas; `SCALE` float32 [N, 2], those over the original's; `NUMBER` int32 [N], of the example in its
# split; and of its objects `BOXES` float32 [N, G, 4], `LABELS` int32 [N, G], `VALID` bool [N, G] and `MASKS` uint8
# [N, G, M, M], each of its box.
SIZE, SCALE, NUMBER = "size", "scale", "number"
BOXES, LABELS, VALID, MASKS = "boxes", "labels", "valid", "masks"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a batch of objects looks like.

    Attributes:
      canvas: height and width of the images' array, multiples of 32.
      short, long: pixels that an image's sides are resized to, as far as neither is exceeded.
      objects: places for objects; of an image with more the largest are kept.
      mask_size: side of the objects' masks; 0 for none.
    """

    canvas: tuple[int, int]
    short: int
    long: int
    objects: int = 100
    mask_size: int = 0

    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """Height and width on the canvas of an image of that height and width."""
        height, width = resized_size(original, self.short, self.long)
        share = min(1.0, self.canvas[0] / height, self.canvas[1] / width)
        return (height, width) if share == 1 else (max(int(height * share), 1), max(int(width * share), 1))


def resized_size(original: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """torchvision's: floor(side * scale) in double precision, with the scale that neither side exceeds."""
    scale = min(short / min(original), long / max(original))
    return max(int(original[0] * scale), 1), max(int(original[1] * scale), 1)


def resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w, C] from [H, W, C]: torchvision's `interpolate(mode="bilinear")`, not antialiased."""
    image = image.astype(np.float32)
    for axis, count in enumerate(size):
        have = image.shape[axis]
        if have == count:
            continue
        place = np.maximum((np.arange(count) + 0.5) * (have / count) - 0.5, 0)
        low = np.minimum(place.astype(np.int64), have - 1)
        share = (place - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
        high = np.minimum(low + 1, have - 1)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


def train_batches(
    source: ObjectSource,
    layout: Layout,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    flip: bool = True,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches: this process's rows of every global batch, from `start_step` on.

    Every process count and start gives the same rows. What cannot be read is a row that does not count. Raises
    ValueError where the split has fewer examples than the batch.
    """
    examples = source.examples("train")
    steps = steps_per_epoch(len(examples), batch_size)
    rows = batch_size // process_count

    def plan() -> Iterator[list[tuple[Example | None, int, bool]]]:
        step = start_step
        while True:
            epoch, place = divmod(step, steps)
            order = permuted_rows(len(examples), batch_size, seed, epoch)[place]
            own = order[process_index * rows : (process_index + 1) * rows]
            yield [(examples[i], int(i), flip and epoch_rng(seed, epoch, 1, int(i)).random() < 0.5) for i in own]
            step += 1

    return _batches(plan(), layout)


def eval_batches(
    source: ObjectSource,
    split: str,
    layout: Layout,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example of a split once over all processes, in as many batches for each; missing rows are masked."""
    examples = source.examples(split)
    rows = batch_size // process_count

    def plan() -> Iterator[list[tuple[Example | None, int, bool]]]:
        for first in range(0, len(examples), batch_size):
            own = range(first + process_index * rows, first + (process_index + 1) * rows)
            yield [(examples[i], i, False) if i < len(examples) else (None, 0, False) for i in own]

    return _batches(plan(), layout)


def _batches(plan: Iterable[list[tuple[Example | None, int, bool]]], layout: Layout) -> Iterator[dict[str, np.ndarray]]:
    with concurrent.futures.ThreadPoolExecutor(
        os.process_cpu_count() if hasattr(os, "process_cpu_count") else None
    ) as pool:
        for rows in plan:
            made = list(pool.map(lambda row: make_row(row[0], row[1], row[2], layout), rows))
            yield {key: np.stack([row[key] for row in made]) for key in made[0]}


def make_row(example: Example | None, number: int, mirrored: bool, layout: Layout) -> dict[str, Any]:
    """One row of a batch; blank, and not counted, without an example or where its image cannot be read."""
    row = blank(layout)
    if example is None:
        return row
    try:
        image = example.read()
    except (OSError, ValueError):
        return row
    height, width = layout.size(example.size)
    pixels = resize_bilinear(image, (height, width))
    row[IMAGE][:height, :width] = np.rint(pixels[:, ::-1] if mirrored else pixels)
    scale = np.array([height / example.size[0], width / example.size[1]], np.float32)
    row |= {MASK: np.float32(1), SIZE: np.array([height, width], np.int32), SCALE: scale, NUMBER: np.int32(number)}
    boxes = example.boxes * np.tile(scale[::-1], 2)
    kept = np.arange(len(boxes))
    if len(boxes) > layout.objects:
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        kept = np.sort(np.argsort(-area, kind="stable")[: layout.objects])
    boxes = boxes[kept]
    if mirrored:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    row[BOXES][: len(kept)] = boxes
    row[LABELS][: len(kept)] = example.labels[kept]
    row[VALID][: len(kept)] = True
    if layout.mask_size:
        for place, k in enumerate(kept):
            mask, (x1, y1, x2, y2) = example.mask(int(k)), example.boxes[k]
            if mirrored:
                mask, x1, x2 = mask[:, ::-1], mask.shape[1] - x2, mask.shape[1] - x1
            row[MASKS][place] = mask_crop(mask, (x1, y1, x2, y2), layout.mask_size)
    return row


def mask_crop(mask: np.ndarray, box: Sequence[float], size: int) -> np.ndarray:
    """uint8 [size, size], 0 or 1: the mask bool [h, w] on a grid from the box's corner, a pixel lying at its index."""
    places = []
    for low, high, limit in ((box[1], box[3], mask.shape[0]), (box[0], box[2], mask.shape[1])):
        place = np.rint(low + np.arange(size) * ((high - low) / size))
        places.append(np.clip(place.astype(np.int64), 0, limit - 1))
    return mask[np.ix_(*places)].astype(np.uint8)


def blank(layout: Layout) -> dict[str, Any]:
    """A row without an image."""
    places, masks = layout.objects, layout.mask_size
    row = {
        IMAGE: np.zeros((*layout.canvas, 3), np.uint8),
        MASK: np.float32(0),
        SIZE: np.array(layout.canvas, np.int32),
        SCALE: np.ones(2, np.float32),
        NUMBER: np.int32(0),
        BOXES: np.zeros((places, 4), np.float32),
        LABELS: np.zeros(places, np.int32),
        VALID: np.zeros(places, bool),
    }
    return row | ({MASKS: np.zeros((places, masks, masks), np.uint8)} if masks else {})
