"""COCO's JSON beside a folder of images."""

import collections
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eca_jax.data.sources.checked import CheckedImage, CheckedSource, Encoded, Thing, clamped, finite

# Where COCO 2017 keeps its splits; a data set of one's own has the same two files and folders.
SPLITS = {"train": ("instances_train2017.json", "train2017"), "validation": ("instances_val2017.json", "val2017")}


class Content(NamedTuple):
    """A file of annotations as it is, with the names of the categories by their ids."""

    images: list[Any]
    annotations: list[Any]
    categories: dict[int, str]


class CocoSource(CheckedSource):
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
        category_ids = [0, *ids] if by_order else list(range(max(ids) + 1))
        labels = {category: label for label, category in enumerate(category_ids) if category in names}
        skipped: collections.Counter[str] = collections.Counter()
        images = {
            split: _checked(content, labels, self._images_of(split), skipped) for split, content in contents.items()
        }
        super().__init__(images, names, category_ids, skipped, self.root)

    def _images_of(self, split: str) -> Callable[[Any], Encoded | None]:
        """Where the image of an entry of the JSON is; None where there is none."""
        folder = self.root / SPLITS[split][1]
        return lambda image: folder / image["file_name"]

    def _load(self, file: str) -> Content:
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


def _checked(
    content: Content,
    labels: Mapping[int, int],
    where: Callable[[Any], Encoded | None],
    skipped: collections.Counter[str],
) -> list[CheckedImage]:
    images: dict[int, CheckedImage] = {}
    for image in content.images:
        try:
            own, size, path = number(image["id"]), (number(image["height"]), number(image["width"])), where(image)
        except (KeyError, TypeError, ValueError):
            size = (0, 0)
        if min(size) < 1:
            skipped["images without a name or a size"] += 1
        elif own in images:
            skipped["images with an id that is there twice"] += 1
        elif path is None:
            skipped["images that are not there"] += 1
        else:
            images[own] = CheckedImage(own, path, size, [])
    seen: set[Any] = set()
    for annotation in content.annotations:
        reason = _take(annotation, images, labels, seen)
        if reason:
            skipped[f"objects {reason}"] += 1
    return list(images.values())


def _take(annotation: Any, images: Mapping[int, CheckedImage], labels: Mapping[int, int], seen: set[Any]) -> str:
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
    box = clamped(annotation.get("bbox"), *images[image].size)
    if box is None:
        return "without a box inside the image"
    images[image].objects.append(
        Thing(
            labels[category],
            category,
            annotation["bbox"],
            box,
            annotation.get("segmentation"),
            area if finite(area) and area >= 0 else None,
            bool(annotation.get("iscrowd")),
        )
    )
    return ""


def number(value: Any) -> int:
    """An id or a size of COCO's JSON. Raises ValueError for what is no integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no integer")
    return value
