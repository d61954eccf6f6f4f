"""From logits to classes: what the predictor and the server of exported models say of an image. NumPy alone."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A class of an image: its index, its probability, and its name where that is known."""

    index: int
    probability: float
    name: str | None = None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; in NumPy, since compiling it takes longer than it does."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def rank(logits: np.ndarray, k: int, class_names: Sequence[str] | None) -> list[Prediction]:
    """The `k` likeliest classes of one image, the likeliest first, given its logits [classes]."""
    probabilities = softmax(logits)
    best = np.argsort(-probabilities, kind="stable")[:k]
    return [Prediction(int(i), float(probabilities[i]), class_names[i] if class_names else None) for i in best]
