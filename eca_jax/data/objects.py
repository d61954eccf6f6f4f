"""Batches of images with objects: resized onto a canvas, mirrored, with padded boxes, labels and masks.

Pure NumPy and Pillow. The order is a pure function of (seed, epoch), mirroring of (seed, epoch, example). On a canvas
that is no square the images of a batch have one orientation, and those of the canvas's other one lie on it turned.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from eca_jax.data.batch import IMAGE, MASK
from eca_jax.data.order import epoch_rng, permuted_rows, steps_per_epoch
from eca_jax.data.sources.checked import Example, ObjectSource
from eca_jax.data.workers import Workers, usable_cpus

# A batch's arrays beside `IMAGE` uint8 [N, H, W, 3] and `MASK` float32 [N]: `SIZE` int32 [N, 2], the image's height and
# width on its canvas; `SCALE` float32 [N, 2], those over the original's; `NUMBER` int32 [N], of the example in its
# split; and of its objects `BOXES` float32 [N, G, 4], `LABELS` int32 [N, G], `VALID` bool [N, G] and `MASKS` uint8
# [N, G, M, M], each of its box.
SIZE, SCALE, NUMBER = "size", "scale", "number"
BOXES, LABELS, VALID, MASKS = "boxes", "labels", "valid", "masks"


# An example (None for a blank row), its number in the split, and whether it is mirrored.
Row = tuple[Example | None, int, bool]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a batch of objects looks like.

    Attributes:
      canvas: height and width of the images' array, multiples of 32.
      short, long: pixels that an image's sides are resized to, as far as neither is exceeded.
      objects: places for objects; of an image with more the largest are kept.
      mask_size: side of the objects' masks; 0 for none.
      rounded: see `eca_jax.models.detection.rules.Rules`.
    """

    canvas: tuple[int, int]
    short: int
    long: int
    objects: int = 100
    mask_size: int = 0
    rounded: bool = False

    @property
    def turned(self) -> "Layout":
        """The same with height and width of the canvas exchanged."""
        return dataclasses.replace(self, canvas=self.canvas[::-1])

    def turns(self, original: tuple[int, int]) -> bool:
        """Whether an image of that height and width wants the canvas `turned`."""
        height, width = original
        return (self.canvas[0] - self.canvas[1]) * (height - width) < 0

    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """Height and width on the canvas of an image of that height and width."""
        height, width = resized_size(original, self.short, self.long, self.rounded)
        share = min(1.0, self.canvas[0] / height, self.canvas[1] / width)
        return (height, width) if share == 1 else (max(int(height * share), 1), max(int(width * share), 1))

    def scale(self, original: tuple[int, int]) -> np.ndarray:
        """float32 [2]: boxes' heights and widths on the canvas over those in an image of that height and width."""
        size = self.size(original)
        whole = size == resized_size(original, self.short, self.long, self.rounded)
        if self.rounded and whole:
            return np.full(2, min(self.short / min(original), self.long / max(original)), np.float32)
        return np.array([size[0] / original[0], size[1] / original[1]], np.float32)


# The rows of a batch, and how they lie.
Rows = tuple[list[Row], Layout]


def resized_size(original: tuple[int, int], short: int, long: int, rounded: bool = False) -> tuple[int, int]:
    """torchvision's floor(side * scale) in double precision, with the scale that neither exceeds; or `rounded`."""
    scale = min(short / min(original), long / max(original))
    more = 0.5 if rounded else 0.0
    return max(int(original[0] * scale + more), 1), max(int(original[1] * scale + more), 1)


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


def oriented_rows(turned: np.ndarray, batch_size: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Example numbers [steps, batch_size] of one epoch and which batches lie on the turned canvas, bool [steps].

    In as many steps as without orientations: what the full batches of both leave over makes a last one, on the canvas
    that most of its images want. The batches come in an order of their own.

    Args:
      turned: bool [examples], which want the turned canvas.
    """
    steps = steps_per_epoch(len(turned), batch_size)
    if not turned.any():
        return permuted_rows(len(turned), batch_size, seed, epoch), np.zeros(steps, bool)
    order = epoch_rng(seed, epoch).permutation(len(turned))
    full, left = [], []
    for orientation in (False, True):
        own = order[turned[order] == orientation]
        count = len(own) // batch_size * batch_size
        full.append(own[:count])
        left.append(own[count:])
    rows = np.concatenate([*full, *left])[: steps * batch_size].reshape(steps, batch_size)
    rows = rows[epoch_rng(seed, epoch, 2).permutation(steps)]
    return rows, turned[rows].mean(axis=1) > 0.5


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
    """Endless batches: this process's rows of every global batch, from `start_step` on; see `oriented_rows`.

    Every process count and start gives the same rows. An image that cannot be read is a row that does not count, and
    is named by a warning once. Raises ValueError where the split has fewer examples than the batch.
    """
    examples = source.examples("train")
    steps = steps_per_epoch(len(examples), batch_size)
    turned = np.array([layout.turns(example.size) for example in examples])
    rows = batch_size // process_count

    def plan() -> Iterator[Rows]:
        for epoch in itertools.count(start_step // steps):
            first = max(start_step - epoch * steps, 0)
            numbers, upright = (part[first:] for part in oriented_rows(turned, batch_size, seed, epoch))
            for row, turn in zip(numbers, upright, strict=True):
                own = row[process_index * rows : (process_index + 1) * rows]
                mirrored = [flip and epoch_rng(seed, epoch, 1, int(i)).random() < 0.5 for i in own]
                triples = [(examples[i], int(i), mirror) for i, mirror in zip(own, mirrored, strict=True)]
                yield triples, layout.turned if turn else layout

    named: set[int] = set()

    def make(row: Row, layout: Layout) -> dict[str, Any]:
        try:
            return make_row(*row, layout)
        except (OSError, ValueError) as error:
            if row[1] not in named:
                named.add(row[1])
                logging.warning("skipping an image: %s", error)
            return blank(layout)

    return _batches(plan(), make)


def eval_batches(
    source: ObjectSource,
    split: str,
    layout: Layout,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example of a split once over all processes, in as many batches for each; missing rows are masked.

    On a canvas that is no square the images of the other orientation come last, on the canvas turned, so that all of
    them are as large as `Layout.short` and `Layout.long` have it, and two programs serve them. Raises
    FileNotFoundError or ValueError for an image that cannot be read: figures without it would be of another data set.
    """
    examples = source.examples(split)
    rows = batch_size // process_count

    def plan() -> Iterator[Rows]:
        for turn in (False, True):
            numbers = [i for i, example in enumerate(examples) if layout.turns(example.size) == turn]
            for first in range(0, len(numbers), batch_size):
                own = range(first + process_index * rows, first + (process_index + 1) * rows)
                places = [numbers[i] if i < len(numbers) else None for i in own]
                triples: list[Row] = [(None, 0, False) if i is None else (examples[i], i, False) for i in places]
                yield triples, layout.turned if turn else layout

    return _batches(plan(), lambda row, layout: make_row(*row, layout))


def _batches(plan: Iterable[Rows], make: Callable[[Row, Layout], dict[str, Any]]) -> Iterator[dict[str, np.ndarray]]:
    with Workers(usable_cpus()) as pool:
        for rows, layout in plan:
            made = list(pool.map(make, rows, itertools.repeat(layout)))
            yield {key: np.stack([row[key] for row in made]) for key in made[0]}


def make_row(example: Example | None, number: int, mirrored: bool, layout: Layout) -> dict[str, Any]:
    """One row of a batch; blank, and not counted, without an example. Raises as `Example.read`."""
    row = blank(layout)
    if example is None:
        return row
    image = example.read()
    height, width = layout.size(example.size)
    pixels = resize_bilinear(image, (height, width))
    row[IMAGE][:height, :width] = np.rint(pixels[:, ::-1] if mirrored else pixels)
    scale = layout.scale(example.size)
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
