"""Images with objects: what a data set of them is to the pipeline, and what all that have been checked share."""

import collections
import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from eca_jax.data.decode import UndecodableImage, decode
from eca_jax.data.sources.segments import rasterized, runs_of
from eca_jax.data.sources.source import of_split


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """An image and the objects in it that are trained on.

    Attributes:
      image_id: COCO's.
      size: height and width in pixels.
      read: the image, uint8 [h, w, 3].
      boxes: float32 [K, 4], x1 y1 x2 y2 in pixels, inside the image.
      labels: int32 [K], from 1.
      mask: `mask(k)` is bool [h, w], the k-th object's.
    """

    image_id: int
    size: tuple[int, int]
    read: Callable[[], np.ndarray]
    boxes: np.ndarray
    labels: np.ndarray
    mask: Callable[[int], np.ndarray]


class ObjectSource(Protocol):
    """A data set of images with objects, with the splits "train" and "validation".

    Attributes:
      class_names: of the labels, from 0, the background.
      category_ids: COCO's category of each label; 0 for labels that are none.
    """

    name: str
    class_names: list[str]
    category_ids: list[int]

    def examples(self, split: str) -> list[Example]:
        """Of the training split those with objects, of the other all. ValueError for an unknown split."""

    def ground_truth(self, split: str) -> dict[str, Any]:
        """What detections are judged by, crowds included: a data set in COCO's JSON form."""


class Thing(NamedTuple):
    """An object that was found good, as COCO has it (`bbox` is x y w h), and its box x1 y1 x2 y2 inside the image."""

    label: int
    category: int
    bbox: list[float]
    box: np.ndarray
    segmentation: Any
    area: float | None
    crowd: bool


class Encoded(Protocol):
    """Where an image's file is: a path, or what has its own. `str` of it names it in messages."""

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError or OSError."""


class CheckedImage(NamedTuple):
    """An image with its objects; `number` is its id, `size` is height and width."""

    number: int
    path: Encoded
    size: tuple[int, int]
    objects: list[Thing]


class CheckedSource:
    """An `ObjectSource` of images and objects that were found good.

    Attributes:
      skipped: why images and objects were left out, and how many.
    """

    name = ""

    def __init__(
        self,
        images: Mapping[str, Sequence[CheckedImage]],
        names: Mapping[int, str],
        category_ids: Sequence[int],
        skipped: collections.Counter[str],
        where: Path,
    ) -> None:
        """`images` of each split; `names` of the categories; `category_ids` of each label, 0 the background's."""
        self._images, self._names, self.skipped = images, names, skipped
        self.category_ids = list(category_ids)
        self.class_names = ["background", *(names.get(i, "") for i in self.category_ids[1:])]
        self._examples: dict[str, list[Example]] = {}
        if skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
            logging.warning("%s: left out are %s", where, reasons)

    def examples(self, split: str) -> list[Example]:
        images = of_split(self._images, split)
        if split not in self._examples:
            examples = [_example(image) for image in images]
            if split == "train":  # as the references: an object of more than a pixel in both directions
                examples = [e for e in examples if np.any(np.min(e.boxes[:, 2:] - e.boxes[:, :2], axis=1) > 1)]
            self._examples[split] = examples
        return self._examples[split]

    def ground_truth(self, split: str) -> dict[str, Any]:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image in of_split(self._images, split):
            images.append({"id": image.number, "height": image.size[0], "width": image.size[1]})
            for thing in image.objects:
                x, y, w, h = thing.bbox
                x1, y1, x2, y2 = thing.box.tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # pycocotools takes a match to id 0 for none
                        "image_id": image.number,
                        "category_id": thing.category,
                        "bbox": [x, y, w, h],
                        "area": w * h if thing.area is None else thing.area,
                        "iscrowd": int(thing.crowd),
                        "segmentation": runs_of(thing.segmentation, image.size)
                        or runs_of([[x1, y1, x2, y1, x2, y2, x1, y2]], image.size),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in sorted(self._names.items())]
        return {"images": images, "annotations": annotations, "categories": categories}


def _example(image: CheckedImage) -> Example:
    path, size = image.path, image.size
    things = [thing for thing in image.objects if not thing.crowd]
    return Example(
        image.number,
        size,
        lambda: read_image(path, size),
        np.asarray([thing.box for thing in things], np.float32).reshape(-1, 4),
        np.asarray([thing.label for thing in things], np.int32),
        lambda k: rasterized(things[k].segmentation, things[k].box, size),
    )


def read_image(path: Encoded, size: tuple[int, int]) -> np.ndarray:
    """The image, uint8 [h, w, 3].

    Raises:
      ValueError: it cannot be decoded, or is not of that size; one line.
      FileNotFoundError: it is not there.
    """
    try:
        pixels = np.asarray(decode(path.read_bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {path}") from None
    except (UndecodableImage, OSError) as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from None
    if pixels.shape[:2] != size:
        raise ValueError(f"{path} has {pixels.shape[:2]} pixels, and its annotations are of {size}")
    return pixels


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def clamped(bbox: Any, height: int, width: int) -> np.ndarray | None:
    """x1 y1 x2 y2 inside the image of COCO's x y w h; None where nothing is left."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(finite, bbox)):
        return None
    x, y, w, h = bbox
    box = np.array([x, y, x + w, y + h], np.float32)
    box = np.clip(box, 0, np.array([width, height, width, height], np.float32))
    return box if w > 0 and h > 0 and box[2] > box[0] and box[3] > box[1] else None
