"""Detectors at work: an image on its canvas, the program, and objects as JSON has them, masks in COCO's run lengths."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from eca_jax.data.decode import converted
from eca_jax.inference.detector import Detector, Placed
from eca_jax.models.detection.paste import paste_part
from eca_jax.serving.images import open_image
from eca_jax.serving.limits import Refused

MASK_THRESHOLD = 0.5  # as `eca-jax detect` draws them


class Detection:
    """A detector, one image at a time, as a program for the batcher.

    Attributes:
      seconds: {1: how long an image takes}.
      has_masks: objects have masks.
      num_classes: the background included where the detector counts it.
    """

    def __init__(self, detector: Detector):
        """Compiles it for upright and for broad images."""
        self._detector = detector
        self.num_classes: int = detector.model.num_classes
        side = detector.preprocessing.image_size
        took = []
        for shape in ((side, side + 1, 3), (side + 1, side, 3)):
            placed = detector.place(np.zeros(shape, np.uint8))
            self.has_masks = "masks" in detector.run(placed)
            started = time.perf_counter()
            detector.run(placed)
            took.append(time.perf_counter() - started)
        self.seconds = {1: min(took)}

    def __call__(self, rows: Sequence[Placed]) -> list[dict[str, np.ndarray]]:
        """What the network finds in each image."""
        return [self._detector.run(row) for row in rows]

    def prepare(self, encoded: bytes, max_pixels: int) -> Placed:
        """An image file on its canvas. Raises Refused: see `open_image`."""
        with open_image(encoded, max_pixels, self._detector.resized) as opened:
            try:
                return self._detector.place(np.asarray(converted(opened, upright=True)))
            except ValueError as error:
                raise Refused(400, f"cannot decode the image: {error}") from None

    def objects(self, found: dict[str, np.ndarray], placed: Placed, threshold: float, masks: bool) -> dict[str, Any]:
        """An image's size and its objects, best first, as JSON has them; boxes x1 y1 x2 y2 in the upright image."""
        result = self._detector.select(found, placed, threshold)
        names = self._detector.class_names
        objects: list[dict[str, Any]] = []
        for index, label in enumerate(result["labels"].tolist()):
            named = {"name": names[label]} if names and names[label] else {}
            box = result["boxes"][index]
            one = {"class": label, **named, "score": float(result["scores"][index]), "box": box.tolist()}
            if masks and "masks" in result:
                ring = self._detector.model.preset.mask_ring
                part = paste_part(result["masks"][index], box, placed.original, ring)
                one["mask"] = {"size": list(placed.original), "counts": run_lengths(*part, placed.original)}
            objects.append(one)
        height, width = placed.original
        return {"width": width, "height": height, "objects": objects}


def run_lengths(top: int, left: int, part: np.ndarray, size: tuple[int, int]) -> list[int]:
    """COCO's uncompressed run lengths of a mask: pixels column by column, so many out, so many in, so many out, ...

    Args:
      top, left, part: probabilities [h, w] and where they begin; all beyond is out.
      size: (height, width) of the mask.
    """
    inside = part > MASK_THRESHOLD
    columns, rows = np.nonzero(inside.T)
    places = (columns + left) * size[0] + rows + top
    gaps = np.flatnonzero(np.diff(places) > 1)
    starts = places[np.concatenate([[0], gaps + 1])] if len(places) else places
    ends = places[np.concatenate([gaps, [-1]])] + 1 if len(places) else places
    edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [size[0] * size[1]]])
    counts: list[int] = np.diff(edges).tolist()
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]
