"""Images with objects: COCO's JSON beside a folder of images, and what a detection data set is to the pipeline."""

import collections
import dataclasses
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from eca_jax.data.decode import UndecodableImage, decode
from eca_jax.data.sources.segments import rasterized, runs_of
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

    Left out, of training and of evaluation, and counted in `skipped`: images without a name or a size or with an id
    that was there before, and objects without a width or height inside their image, with numbers that are not finite,
    of unknown categories, of unknown images or with an id that was there before. Crowds are not trained on. A mask
    that is none is the box.

    Attributes:
      by_order: labels are 1, 2, ... in the order of the category ids, as mmdetection has them, and not the ids
        themselves, as torchvision has them.
      splits: those that are read; the categories are the first one's.
      skipped: why images and annotations were left out, and how many.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a file is not COCO's JSON; one line.
    """

    name = "coco"

    def __init__(
        self, root: str | os.PathLike, *, by_order: bool = False, splits: Sequence[str] = ("train", "validation")
    ) -> None:
        self.root = Path(root)
        self.skipped: collections.Counter[str] = collections.Counter()
        contents = {split: self._load(SPLITS[split][0]) for split in splits}
        names = contents[splits[0]].categories
        for split, content in contents.items():
            other = [i for i, name in content.categories.items() if names.get(i, name) != name]
            if other:
                raise ValueError(
                    f"{self.root}: category {other[0]} is {names[other[0]]!r} in {SPLITS[splits[0]][0]} and "
                    f"{content.categories[other[0]]!r} in {SPLITS[split][0]}"
                )
        ids = sorted(names)
        self.category_ids = [0, *ids] if by_order else list(range(max(ids) + 1))
        self.class_names = ["background", *(names.get(i, "") for i in self.category_ids[1:])]
        labels = {category: label for label, category in enumerate(self.category_ids) if category in names}
        self._names = names
        self._images = {split: self._checked(content, labels) for split, content in contents.items()}
        self._examples: dict[str, list[Example]] = {}
        if self.skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            logging.warning("%s: left out are %s", self.root, reasons)

    def examples(self, split: str) -> list[Example]:
        images = of_split(self._images, split)
        if split not in self._examples:
            examples = [self._example(image, SPLITS[split][1]) for image in images]
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
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # pycocotools takes a match to id 0 for none
                        "image_id": image.number,
                        "category_id": thing.category,
                        "bbox": [x, y, w, h],
                        "area": w * h if thing.area is None else thing.area,
                        "iscrowd": int(thing.crowd),
                        "segmentation": runs_of(thing.segmentation, image.size)
                        or runs_of([[x, y, x + w, y, x + w, y + h, x, y + h]], image.size),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in sorted(self._names.items())]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _load(self, file: str) -> "Content":
        path = self.root / "annotations" / file
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}: a COCO folder has annotations/{file}")
        try:
            content = json.loads(path.read_bytes())
            images, annotations, categories = (content[key] for key in ("images", "annotations", "categories"))
            if not all(isinstance(entries, list) for entries in (images, annotations, categories)):
                raise ValueError("images, annotations and categories have to be lists")
            names = {number(category["id"]): str(category["name"]) for category in categories}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not COCO's JSON: {' '.join(str(error).split())}") from None
        if len(names) < len(categories) or not names or min(names) < 1:
            raise ValueError(f"{path}: category ids have to be different numbers from 1 on")
        return Content(images, annotations, names)

    def _checked(self, content: "Content", labels: Mapping[int, int]) -> "list[CheckedImage]":
        images: dict[int, CheckedImage] = {}
        for image in content.images:
            try:
                checked = CheckedImage(
                    number(image["id"]), str(image["file_name"]), (number(image["height"]), number(image["width"])), []
                )
            except (KeyError, TypeError, ValueError):
                checked = None
            if checked is None or min(checked.size) < 1:
                self.skipped["images without a name or a size"] += 1
            elif checked.number in images:
                self.skipped["images with an id that is there twice"] += 1
            else:
                images[checked.number] = checked
        seen: set[Any] = set()
        for annotation in content.annotations:
            reason = self._take(annotation, images, labels, seen)
            if reason:
                self.skipped[f"objects {reason}"] += 1
        return list(images.values())

    def _take(
        self, annotation: Any, images: "Mapping[int, CheckedImage]", labels: Mapping[int, int], seen: set[Any]
    ) -> str:
        """Adds an annotation to its image; or says why not."""
        try:
            own, image, category = annotation.get("id"), annotation.get("image_id"), annotation.get("category_id")
            if own is not None and own in seen:
                return "with an id that is there twice"
            seen.add(own)
            if image not in images:
                return "of an unknown image"
            if category not in labels:
                return "of an unknown category"
        except (AttributeError, TypeError):  # no mapping, or lists for ids
            return "that cannot be read"
        area = annotation.get("area")
        box = _clamped(annotation.get("bbox"), *images[image].size)
        if box is None:
            return "without a box inside the image"
        images[image].objects.append(
            Thing(
                labels[category],
                category,
                annotation["bbox"],
                box,
                annotation.get("segmentation"),
                area if _finite(area) and area >= 0 else None,
                bool(annotation.get("iscrowd")),
            )
        )
        return ""

    def _example(self, image: "CheckedImage", folder: str) -> Example:
        path, size = self.root / folder / image.file_name, image.size
        things = [thing for thing in image.objects if not thing.crowd]
        return Example(
            image.number,
            size,
            lambda: read_image(path, size),
            np.asarray([thing.box for thing in things], np.float32).reshape(-1, 4),
            np.asarray([thing.label for thing in things], np.int32),
            lambda k: rasterized(things[k].segmentation, things[k].box, size),
        )


class Content(NamedTuple):
    """A file of annotations as it is, with the names of the categories by their ids."""

    images: list[Any]
    annotations: list[Any]
    categories: dict[int, str]


class Thing(NamedTuple):
    """An object that was found good: COCO's own entries, and its box x1 y1 x2 y2 inside the image."""

    label: int
    category: int
    bbox: list[float]
    box: np.ndarray
    segmentation: Any
    area: float | None
    crowd: bool


class CheckedImage(NamedTuple):
    """An image with its objects; `size` is height and width."""

    number: int
    file_name: str
    size: tuple[int, int]
    objects: list[Thing]


def number(value: Any) -> int:
    """An id or a size of COCO's JSON. Raises ValueError for what is no integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no integer")
    return value


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


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _clamped(bbox: Any, height: int, width: int) -> np.ndarray | None:
    """x1 y1 x2 y2 inside the image of COCO's x y w h; None where nothing is left."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_finite, bbox)):
        return None
    x, y, w, h = bbox
    box = np.array([x, y, x + w, y + h], np.float32)
    box = np.clip(box, 0, np.array([width, height, width, height], np.float32))
    return box if w > 0 and h > 0 and box[2] > box[0] and box[3] > box[1] else None
