"""A folder of images with YOLO's labels: a text file an image, a line an object."""

import collections
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eca_jax.data.sources.checked import CheckedImage, CheckedSource, Thing, clamped
from eca_jax.data.sources.walk import image_suffixes

# Names of the splits' folders under `images` and `labels`.
FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation", "test")}


class YoloSource(CheckedSource):
    """`images/{train,val}/**`, beside them `labels/{train,val}/**.txt`, and `classes.txt`, a name a line.

    A line of a label file is `class cx cy w h`, in shares of the image's width and height, or `class x1 y1 x2 y2 ...`,
    an outline of three points or more, whose box is the object's. An image without a label file has no objects. Left
    out and counted in `skipped` are lines of another form, of classes without a name, and without a width or height
    inside their image, and images that cannot be opened.

    Labels are the classes' numbers and one more; 0 is the background.

    Raises:
      FileNotFoundError: there is no `classes.txt` or no folder of images of a split.
      ValueError: `classes.txt` is empty; one line.
    """

    name = "yolo"

    def __init__(self, root: str | os.PathLike, *, splits: Sequence[str] = ("train", "validation")) -> None:
        self.root = Path(root)
        listed = self.root / "classes.txt"
        if not listed.is_file():
            raise FileNotFoundError(f"there is no {listed}: a folder of YOLO's labels has the classes' names in it")
        names = [line.strip() for line in listed.read_text(errors="replace").splitlines() if line.strip()]
        if not names:
            raise ValueError(f"{listed} names no class")
        skipped: collections.Counter[str] = collections.Counter()
        images = {split: self._images_of(split, len(names), skipped) for split in splits}
        super().__init__(images, dict(enumerate(names, 1)), range(len(names) + 1), skipped, self.root)

    def _images_of(self, split: str, classes: int, skipped: collections.Counter[str]) -> list[CheckedImage]:
        folders = [folder for name in FOLDERS[split] if (folder := self.root / "images" / name).is_dir()]
        if not folders:
            raise FileNotFoundError(
                f"there is no {self.root / 'images' / FOLDERS[split][0]}: the images of YOLO's labels"
            )
        images: list[CheckedImage] = []
        for path in sorted(path for path in folders[0].rglob("*") if path.suffix.lower() in image_suffixes()):
            try:
                with Image.open(path) as opened:
                    width, height = opened.size
            except (OSError, ValueError):
                skipped["images that cannot be opened"] += 1
                continue
            image = CheckedImage(len(images) + 1, path, (height, width), [])
            labels = self.root / "labels" / path.relative_to(self.root / "images").with_suffix(".txt")
            for line in labels.read_text(errors="replace").splitlines() if labels.is_file() else ():
                if line.strip():
                    thing = _thing(line.split(), classes, image.size)
                    if isinstance(thing, str):
                        skipped[f"objects {thing}"] += 1
                    else:
                        image.objects.append(thing)
            images.append(image)
        return images


def _thing(words: list[str], classes: int, size: tuple[int, int]) -> Thing | str:
    """The object of a line; or why it is none."""
    try:
        kind, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return "that cannot be read"
    outline = len(values) >= 6 and len(values) % 2 == 0
    if not all(map(math.isfinite, values)) or not (outline or len(values) == 4):
        return "that cannot be read"
    if not 0 <= kind < classes:
        return "of a class without a name"
    height, width = size
    pixels = np.array(values).reshape(-1, 2) * (width, height)
    low, high = (
        (pixels.min(axis=0), pixels.max(axis=0)) if outline else (pixels[0] - pixels[1] / 2, pixels[0] + pixels[1] / 2)
    )
    bbox: list[Any] = [*low.tolist(), *(high - low).tolist()]
    box = clamped(bbox, height, width)
    if box is None:
        return "without a box inside the image"
    return Thing(kind + 1, kind + 1, bbox, box, [pixels.ravel().tolist()] if outline else None, None, False)
