"""COCO's figures of detections, by pycocotools, gathered from all processes."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eca_jax.data.batch import MASK
from eca_jax.data.objects import NUMBER
from eca_jax.data.sources.checked import ObjectSource
from eca_jax.models.detection.paste import paste
from eca_jax.models.detection.rules import TORCHVISION, Rules
from eca_jax.sharding import gathered

FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


class CocoMeter:
    """A `Meter`: COCO's twelve figures of boxes, "box_ap" the first, and of masks where there are any, "mask_ap"."""

    def __init__(self, source: ObjectSource, split: str, rules: Rules = TORCHVISION) -> None:
        """`rules`: how wide boxes are, and how masks are pasted."""
        self._source = source
        self._examples = source.examples(split)
        self._split = split
        self._rules = rules
        self._found: list[dict[str, Any]] = []
        self._images: list[int] = []

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        for row in np.flatnonzero(outputs[MASK] > 0):
            example = self._examples[int(outputs[NUMBER][row])]
            self._images.append(example.image_id)
            for k in np.flatnonzero(outputs["valid"][row]):
                category = self._source.category_ids[int(outputs["labels"][row][k])]
                if not category:
                    continue
                x1, y1, x2, y2 = box = [float(value) for value in outputs["boxes"][row][k]]
                found = {
                    "image_id": example.image_id,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1 + self._rules.offset, y2 - y1 + self._rules.offset],
                    "score": float(outputs["scores"][row][k]),
                }
                if "masks" in outputs:
                    found["segmentation"] = encoded(
                        paste(outputs["masks"][row][k], box, example.size, self._rules.mask_ring) > 0.5
                    )
                self._found.append(found)

    def result(self) -> dict[str, float]:
        own = np.frombuffer(json.dumps([self._images, self._found]).encode(), np.uint8)
        lengths = gathered(np.array(len(own))).ravel()
        padded = gathered(np.pad(own, (0, int(lengths.max()) - len(own))))
        parts = [json.loads(row[:length].tobytes()) for row, length in zip(padded, lengths, strict=True)]
        images = [image for part in parts for image in part[0]]
        if len(set(images)) < len(images):
            raise ValueError("an image was evaluated twice")
        found = [detection for part in parts for detection in part[1]]
        truth = self._source.ground_truth(self._split)
        result = coco_figures(truth, found, "bbox", images)
        if any("segmentation" in detection for detection in found):
            result |= coco_figures(truth, found, "segm", images)
        return {"loss": 1 - result["box_ap"], **result, "count": len(images)}


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask bool [h, w], as JSON has them. Raises ImportError without pycocotools."""
    from pycocotools import mask as coder

    runs = coder.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}


def coco_figures(
    truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]], kind: str, images: Sequence[int] | None = None
) -> dict[str, float]:
    """COCO's twelve figures of detections in COCO's result form: "box_ap" and on, or of `kind="segm"` "mask_ap" and on.

    A figure that has no objects is -1, as pycocotools has it.

    Args:
      truth: a data set in COCO's form.
      images: the ids that are judged; None is all.

    Raises:
      ImportError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError("COCO's figures need pycocotools: pip install pycocotools") from None
    prefix = "box" if kind == "bbox" else "mask"
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {key: [dict(entry) for entry in truth[key]] for key in ("images", "annotations", "categories")}
        known.createIndex()
        results = [
            {key: value for key, value in entry.items() if kind == "segm" or key != "segmentation"} for entry in found
        ]
        if not results:
            return dict.fromkeys((f"{prefix}_{name}" for name in FIGURES), 0.0)
        evaluation = COCOeval(known, known.loadRes(results), kind)
        if images is not None:
            evaluation.params.imgIds = sorted(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {f"{prefix}_{name}": float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)}
