"""Images with objects: COCO's JSON beside a folder of images, and what a detection data set is to the pipeline."""

import collections
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eca_jax.data.decode import UndecodableImage, decode
from eca_jax.data.sources.source import of_split

# Where COCO 2017 keeps its splits; a data set of one's own has the same two files and folders.
SPLITS = {"train": ("instances_train2017.json", "train2017"), "validation": ("instances_val2017.json", "val2017")}


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


class CocoSource:
    """A folder in COCO's layout: `annotations/instances_{train,val}2017.json`, `train2017/` and `val2017/`.

    Objects without a width or height inside their image, with numbers that are not finite, of unknown categories, of
    unknown images or with an id that was there before are left out, and counted in `skipped`. Crowds are not trained
    on. An empty mask leaves the box.

    Attributes:
      by_order: labels are 1, 2, ... in the order of the category ids, as mmdetection has them, and not the ids
        themselves, as torchvision has them.
      skipped: why annotations were left out, and how many.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a file is not COCO's JSON; one line.
    """

    name = "coco"

    def __init__(self, root: str | os.PathLike, *, by_order: bool = False) -> None:
        self.root = Path(root)
        self.skipped: collections.Counter[str] = collections.Counter()
        self._content = {split: self._load(*names) for split, names in SPLITS.items()}
        categories = sorted(self._content["train"]["categories"], key=lambda category: category["id"])
        ids = [int(category["id"]) for category in categories]
        if len(set(ids)) < len(ids) or (ids and ids[0] < 1):
            raise ValueError(f"{self.root}: category ids have to be different numbers from 1 on")
        names = {int(category["id"]): str(category["name"]) for category in categories}
        self.category_ids = [0, *ids] if by_order else list(range(max(ids, default=0) + 1))
        self.class_names = ["background", *(names.get(i, "") for i in self.category_ids[1:])]
        self._labels = {category: label for label, category in enumerate(self.category_ids) if category in names}
        self._examples: dict[str, list[Example]] = {}

    def examples(self, split: str) -> list[Example]:
        content = of_split(self._content, split)
        if split not in self._examples:
            examples = [self._example(image, *objects, split) for image, objects in self._objects(content)]
            if split == "train":  # as the references: an object of more than a pixel in both directions
                examples = [e for e in examples if np.any(np.min(e.boxes[:, 2:] - e.boxes[:, :2], axis=1) > 1)]
            self._examples[split] = examples
        return self._examples[split]

    def ground_truth(self, split: str) -> dict[str, Any]:
        return of_split(self._content, split)

    def _load(self, file: str, _: str) -> dict[str, Any]:
        path = self.root / "annotations" / file
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}: a COCO folder has annotations/{file}")
        try:
            content = json.loads(path.read_bytes())
            return {key: list(content[key]) for key in ("images", "annotations", "categories")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not COCO's JSON: {error}") from None

    def _objects(self, content: Mapping[str, Any]) -> list[tuple[Mapping, tuple[list, list, list]]]:
        """Each image with the boxes, labels and segmentations of its objects."""
        images: dict[Any, tuple[Mapping, tuple[list, list, list]]]
        images = {image["id"]: (image, ([], [], [])) for image in content["images"]}
        seen = set()
        for annotation in content["annotations"]:
            if annotation.get("iscrowd"):
                continue
            image, objects = images.get(annotation.get("image_id"), (None, ([], [], [])))
            label = self._labels.get(annotation.get("category_id"))
            if annotation.get("id") in seen:
                self.skipped["an id that is there twice"] += 1
            elif image is None:
                self.skipped["of an unknown image"] += 1
            elif label is None:
                self.skipped["of an unknown category"] += 1
            elif (box := _clamped(annotation.get("bbox"), image["width"], image["height"])) is None:
                self.skipped["without a box inside the image"] += 1
            else:
                for values, value in zip(objects, (box, label, annotation.get("segmentation")), strict=True):
                    values.append(value)
            seen.add(annotation.get("id"))
        return list(images.values())

    def _example(self, image: Mapping, boxes: list, labels: list, segments: list, split: str) -> Example:
        path = self.root / SPLITS[split][1] / image["file_name"]
        size = (int(image["height"]), int(image["width"]))

        def mask(k: int) -> np.ndarray:
            return rasterized(segments[k], boxes[k], size)

        return Example(
            int(image["id"]),
            size,
            lambda: read_image(path, size),
            np.asarray(boxes, np.float32).reshape(-1, 4),
            np.asarray(labels, np.int32),
            mask,
        )


def read_image(path: Path, size: tuple[int, int]) -> np.ndarray:
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


def rasterized(segmentation: Any, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [h, w] of polygons or run lengths, as pycocotools draws them; the box itself where there is neither.

    Raises ImportError without pycocotools.
    """
    if not segmentation:
        x1, y1, x2, y2 = np.round(box).astype(int)
        mask = np.zeros(size, bool)
        mask[y1:y2, x1:x2] = True
        return mask
    from pycocotools import mask as coder

    if isinstance(segmentation, list):
        runs = coder.merge(coder.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        runs = coder.frPyObjects(segmentation, *size)
    else:
        runs = segmentation
    return coder.decode(runs).astype(bool)


def _clamped(bbox: Any, width: int, height: int) -> np.ndarray | None:
    """x1 y1 x2 y2 inside the image of COCO's x y w h; None where nothing is left."""
    if not isinstance(bbox, list | tuple) or len(bbox) != 4:
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in bbox):
        return None
    x, y, w, h = bbox
    box = np.array([x, y, x + w, y + h], np.float32)
    box = np.clip(box, 0, np.array([width, height, width, height], np.float32))
    return box if w > 0 and h > 0 and box[2] > box[0] and box[3] > box[1] else None
