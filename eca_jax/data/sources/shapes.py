"""A data set of drawn shapes, made as it is read: what detectors are tried on without any download."""

import functools
from typing import Any

import numpy as np

from eca_jax.data.sources.checked import Example
from eca_jax.data.sources.source import of_split

COUNTS = {"train": 1000, "validation": 60}
# A shape differs from the ground by at least so many levels of 256 in a channel.
CONTRAST = 60


class ShapesSource:
    """Circles, squares and triangles of random colours, sizes and places on noise: up to four, up to a quarter hidden.

    Attributes:
      size: height and width of an image.
      counts: images in each split.
      both: whether every other image has height and width exchanged.
    """

    name = "shapes"
    class_names = ["background", "circle", "square", "triangle"]  # noqa: RUF012
    category_ids = [0, 1, 2, 3]  # noqa: RUF012

    def __init__(
        self, size: tuple[int, int] = (96, 96), counts: dict[str, int] | None = None, both: bool = False
    ) -> None:
        self.size = size
        self.counts = dict(counts or COUNTS)
        self.both = both
        self._examples: dict[str, list[Example]] = {}

    def examples(self, split: str) -> list[Example]:
        count = of_split(self.counts, split)
        if split not in self._examples:
            self._examples[split] = [self._example(split, number) for number in range(count)]
        return self._examples[split]

    def ground_truth(self, split: str) -> dict[str, Any]:
        from pycocotools import mask as coder

        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for example in self.examples(split):
            images.append({"id": example.image_id, "height": example.size[0], "width": example.size[1]})
            for k, (box, label) in enumerate(zip(example.boxes.tolist(), example.labels.tolist(), strict=True)):
                mask = example.mask(k)
                x1, y1, x2, y2 = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": example.image_id,
                        "category_id": label,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": float(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": coder.encode(np.asfortranarray(mask, np.uint8)),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(self.class_names) if i]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _example(self, split: str, number: int) -> Example:
        size = self.size[::-1] if self.both and number % 2 else self.size
        draw = functools.lru_cache(maxsize=1)(lambda: _drawn(size, [sorted(self.counts).index(split), number]))
        _, masks, labels = draw()
        boxes = np.array([_box(mask) for mask in masks], np.float32).reshape(-1, 4)
        return Example(number + 1, size, lambda: draw()[0], boxes, labels, lambda k: draw()[1][k])


def _drawn(size: tuple[int, int], seed: list[int]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """The image uint8 [h, w, 3], what is seen of each shape bool [h, w], and the labels."""
    rng = np.random.default_rng(seed)
    height, width = size
    ground = rng.uniform(60, 190, 3)
    image = rng.normal(ground, 12, (height, width, 3))
    whole: list[np.ndarray] = []
    labels = []
    for _ in range(int(rng.integers(1, 5))):
        label = int(rng.integers(1, 4))
        radius = rng.uniform(0.12, 0.26) * min(size)
        centre = rng.uniform(radius, np.array(size) - radius)
        mask = _shape(label, centre, radius, size)
        # A later shape lies on an earlier one, and leaves it at least three quarters of itself.
        left = [np.sum(before & ~mask) >= 0.75 * np.sum(before) for before in whole]
        if not all(left):
            continue
        whole = [before & ~mask for before in whole]
        whole.append(mask)
        labels.append(label)
        colour = rng.uniform(0, 255, 3)
        while np.abs(colour - ground).max() < CONTRAST:  # a shape of the ground's colour is there for nobody
            colour = rng.uniform(0, 255, 3)
        image[mask] = colour + rng.normal(0, 6, (int(mask.sum()), 3))
    return np.clip(image, 0, 255).astype(np.uint8), whole, np.array(labels, np.int32)


def _shape(label: int, centre: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    y, x = (y - centre[0]) / radius, (x - centre[1]) / radius
    if label == 1:
        return y * y + x * x <= 1
    if label == 2:
        return np.maximum(np.abs(y), np.abs(x)) <= 0.85
    return (y <= 0.8) & (y >= 1.8 * np.abs(x) - 1)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
