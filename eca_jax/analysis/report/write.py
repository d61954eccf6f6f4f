"""Writes a report: index.html, its figures, and report.json."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from eca_jax.analysis.report import figures, page
from eca_jax.analysis.report.judging import (
    BINS,
    EXAMPLES,
    Examples,
    Judging,
    calibration_error,
    confused_pairs,
    confusion_matrix,
    per_class,
    reliability,
    surest_mistakes,
)
from eca_jax.data import OwnBatches
from eca_jax.data.decode import decode
from eca_jax.files import absolute, write_json, write_whole
from eca_jax.weights.class_names import class_names

REPORT_FILE = "report.json"

# Classes up to which the whole confusion matrix can be read.
_MATRIX_CLASSES = 30
_PAIRS = 20
_MISTAKES = 24
_THUMBNAIL = 224


def write_report(
    directory: str | os.PathLike,
    task: Judging,
    metrics: Mapping[str, Any],
    *,
    split: str = "validation",
    title: str = "",
    step: int | None = None,
    curves: bytes | None = None,
) -> epath.Path:
    """Writes what an evaluation shows into `directory`, which is made; all processes call it, the first one writes.

    Args:
      task: what was evaluated, and the data to show pictures from.
      metrics: of `task`, as `eca_jax.training.evaluate.evaluate_weights` returns them.
      split: that they are of.
      title: of the page.
      step: of the weights, for whoever asks later whether the report is theirs.
      curves: a PNG file of the training.

    Returns:
      the page, index.html.

    Raises:
      OSError: it cannot be written, or a picture cannot be read again.
    """
    examples: Examples = metrics[EXAMPLES]
    names = _names(task)
    shown = np.unique(np.concatenate([examples.labels, examples.predictions])).tolist()
    numbers = per_class(examples, len(names))
    pairs = [(names[label], names[answer], count) for label, answer, count in confused_pairs(examples, _PAIRS)]
    ranges = reliability(examples)
    mistakes = surest_mistakes(examples, _MISTAKES)
    content = {
        "title": title,
        "step": step,
        "split": split,
        **{key: value for key, value in metrics.items() if key != EXAMPLES},
        "calibration_error": calibration_error(ranges),
        "classes": [_of_class(names[index], index, numbers) for index in shown],
        "confused": [dict(zip(("class", "answer", "count"), pair, strict=True)) for pair in pairs],
        "reliability": ranges,
        "mistakes": [
            {
                "image": task.source.describe(split, index),
                "class": names[examples.labels[index]],
                "answer": names[examples.predictions[index]],
                "confidence": float(examples.confidences[index]),
            }
            for index in mistakes.tolist()
        ],
    }
    matrix = None
    if len(shown) <= _MATRIX_CLASSES:
        matrix = confusion_matrix(examples, len(names))[np.ix_(shown, shown)]
        content["confusion"] = matrix.tolist()
    path = absolute(directory)
    if jax.process_index() == 0:
        pictures = _pictures(task, split, mistakes, content["mistakes"])
        files = {"reliability.png": figures.reliability(ranges, BINS, content["calibration_error"])}
        if pairs:
            files |= {"mistakes.png": figures.contact_sheet(pictures), "confused.png": figures.pairs(pairs)}
        if matrix is not None:
            files["confusion.png"] = figures.confusion(matrix, [names[index] for index in shown])
        if curves is not None:
            files["curves.png"] = curves
        path.mkdir(parents=True, exist_ok=True)
        for name, picture in files.items():
            write_whole(path / name, picture)
        write_json(path / REPORT_FILE, content)
        write_whole(path / "index.html", page.html(content, files).encode())
    return path / "index.html"


def _names(task: Judging) -> list[str]:
    count = task.model.num_classes
    stored = task.description.class_names or (None if task.labels else task.source.class_names)
    return class_names(stored, count) or [str(index) for index in range(count)]


def _of_class(name: str, index: int, numbers: Mapping[str, np.ndarray]) -> dict[str, Any]:
    count, correct, predicted = (int(numbers[key][index]) for key in ("count", "correct", "predicted"))
    return {
        "class": name,
        "count": count,
        "correct": correct,
        "accuracy": correct / count if count else None,
        "predicted": predicted,
        "precision": correct / predicted if predicted else None,
    }


def _pictures(
    task: Judging, split: str, indices: np.ndarray, said: Sequence[Mapping[str, Any]]
) -> list[tuple[Image.Image, str, str, float, str]]:
    """Thumbnails with what the contact sheet writes about them."""
    pictures = []
    source = task.source
    assert not isinstance(source, OwnBatches), "of which there is no `Judging`"
    for index, mistake in zip(indices.tolist(), said, strict=True):
        (row,) = source.eval_rows(split, index, index + 1)
        image = decode(row.read()[0], upright=task.upright)
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        name = os.path.basename(mistake["image"])
        pictures.append((image, mistake["class"], mistake["answer"], mistake["confidence"], name))
    return pictures
