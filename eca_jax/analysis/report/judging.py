"""An evaluation that keeps what the model said of every example, and what that says of the model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax.data import OwnBatches
from eca_jax.data.batch import LABEL, MASK
from eca_jax.sharding import gathered
from eca_jax.tasks.accuracy import Accuracy, nearest_label
from eca_jax.tasks.classification import Classification
from eca_jax.tasks.task import Batch

BINS = 15
EXAMPLES = "examples"

_KEPT = (LABEL, "prediction", "confidence", MASK)


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a model said of each example of a split, in the split's order.

    Attributes:
      labels, predictions: among the model's classes, int [N].
      confidences: probabilities of the predictions, float32 [N].
    """

    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray


class Judging(Classification):
    """A classification whose evaluation has `Examples` under "examples" besides its metrics."""

    @classmethod
    def of(cls, task: Classification) -> "Judging":
        """The same task, on the data that it has open.

        Raises:
          ValueError: data of one's own, of which no single picture can be shown.
        """
        if isinstance(task.source, OwnBatches):
            raise ValueError(f"there are no reports on data of one's own ({task.source.name})")
        fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
        return cls(**fields | {"open_source": lambda: task.source})

    def judged(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        probabilities = jax.nn.softmax(logits)
        return super().judged(logits, batch) | {
            LABEL: nearest_label(logits, batch[LABEL]),
            "prediction": jnp.argmax(logits, axis=1),
            "confidence": probabilities.max(axis=1),
        }

    def meter(self) -> "Judgements":
        return Judgements()


class Judgements(Accuracy):
    """`Accuracy` that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[np.ndarray] = []

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        super().add(outputs)
        self._kept.append(np.stack([np.asarray(outputs[key], np.float32) for key in _KEPT], axis=1))

    def result(self) -> dict[str, Any]:
        rows = gathered(np.concatenate(self._kept)).reshape(-1, len(_KEPT))  # processes have consecutive parts
        labels, predictions, confidences, mask = rows.T
        counts = mask > 0
        kept = Examples(labels[counts].astype(int), predictions[counts].astype(int), confidences[counts])
        return super().result() | {EXAMPLES: kept}


def confusion_matrix(examples: Examples, num_classes: int) -> np.ndarray:
    """Counts of (label, prediction), int [K, K]."""
    places = examples.labels * num_classes + examples.predictions
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(examples: Examples, num_classes: int) -> dict[str, np.ndarray]:
    """By class: "count" of its examples, "correct" of them, and how often it was "predicted"; int [K] each."""
    right = examples.labels == examples.predictions
    return {
        "count": np.bincount(examples.labels, minlength=num_classes),
        "correct": np.bincount(examples.labels[right], minlength=num_classes),
        "predicted": np.bincount(examples.predictions, minlength=num_classes),
    }


def confused_pairs(examples: Examples, most: int) -> list[tuple[int, int, int]]:
    """(label, prediction, count) of the commonest mistakes, at most `most`."""
    wrong = examples.labels != examples.predictions
    pairs = np.stack([examples.labels[wrong], examples.predictions[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(found[index, 0]), int(found[index, 1]), int(counts[index])) for index in order]


def surest_mistakes(examples: Examples, most: int) -> np.ndarray:
    """Indices of the wrong answers of highest confidence, int [M], the surest first."""
    wrong = np.flatnonzero(examples.labels != examples.predictions)
    return wrong[np.argsort(-examples.confidences[wrong], kind="stable")][:most]


def reliability(examples: Examples) -> list[dict[str, float]]:
    """Of `BINS` equal ranges of confidence, those that occur: bounds, count, mean confidence and accuracy."""
    right = examples.labels == examples.predictions
    bins = np.clip((examples.confidences * BINS).astype(int), 0, BINS - 1)
    return [
        {
            "low": index / BINS,
            "high": (index + 1) / BINS,
            "count": int((bins == index).sum()),
            "confidence": float(examples.confidences[bins == index].mean()),
            "accuracy": float(right[bins == index].mean()),
        }
        for index in np.unique(bins).tolist()
    ]


def calibration_error(ranges: list[dict[str, float]]) -> float:
    """ECE: the mean distance of accuracy and confidence over the ranges, weighted by their counts.

    Naeini et al., AAAI 2015; Guo et al., ICML 2017, equation 3.
    """
    total = sum(each["count"] for each in ranges)
    return sum(each["count"] * abs(each["accuracy"] - each["confidence"]) for each in ranges) / max(total, 1)
