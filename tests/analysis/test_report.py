"""The report: its numbers, its files, and that they are of the data they are said to be of."""

import itertools
import json
import math
import types

import numpy as np
import pytest
from data_fixtures import TRAIN_PER_CLASS, VALIDATION_EXAMPLES, WNIDS
from PIL import Image

from eca_jax.analysis.report import EXAMPLES, Judging, figures, write_report
from eca_jax.analysis.report.judging import (
    Examples,
    Judgements,
    calibration_error,
    confused_pairs,
    confusion_matrix,
    per_class,
    reliability,
    surest_mistakes,
)
from eca_jax.data import load_source
from eca_jax.models import Preprocessing
from eca_jax.tasks.classification import Classification
from eca_jax.weights.card import Card

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTIONS = np.array([0, 1, 1, 1, 2, 2, 2, 2, 0])
CONFIDENCES = np.array([0.9, 0.6, 0.8, 0.7, 0.95, 1.0, 0.5, 0.52, 0.4], np.float32)
EXAMPLES_OF_NINE = Examples(LABELS, PREDICTIONS, CONFIDENCES)


def test_classes_pairs_and_mistakes_are_counted():
    from sklearn.metrics import confusion_matrix as peer

    np.testing.assert_array_equal(confusion_matrix(EXAMPLES_OF_NINE, 3), peer(LABELS, PREDICTIONS))
    numbers = per_class(EXAMPLES_OF_NINE, 4)
    assert {key: value.tolist() for key, value in numbers.items()} == {
        "count": [3, 2, 4, 0],
        "correct": [1, 1, 3, 0],
        "predicted": [2, 3, 4, 0],
    }
    assert confused_pairs(EXAMPLES_OF_NINE, 2) == [(0, 1, 2), (1, 2, 1)]
    assert surest_mistakes(EXAMPLES_OF_NINE, 3).tolist() == [4, 2, 1]


def test_the_calibration_error_is_the_papers():
    ranges = reliability(EXAMPLES_OF_NINE)
    assert sum(each["count"] for each in ranges) == 9
    right = LABELS == PREDICTIONS
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        own = (low <= CONFIDENCES) & ((high > CONFIDENCES) | (high == 1))
        if own.any():
            expected += own.sum() / 9 * abs(right[own].mean() - CONFIDENCES[own].mean())
    assert math.isclose(calibration_error(ranges), expected, rel_tol=1e-6)


def test_a_meter_remembers_what_counts():
    meter = Judgements()
    for own in (slice(0, 5), slice(5, 9)):
        mask = np.ones(len(LABELS[own]), np.float32)
        rows = {"label": LABELS[own], "prediction": PREDICTIONS[own], "confidence": CONFIDENCES[own], "mask": mask}
        meter.add(rows | {"loss": mask, "rank": (LABELS[own] != PREDICTIONS[own]) * 7})
    blank = {"label": np.zeros(2), "prediction": np.ones(2), "confidence": np.ones(2), "mask": np.zeros(2)}
    meter.add(blank | {"loss": np.ones(2), "rank": np.ones(2)})
    result = meter.result()
    assert (result["count"], result["top1"], result["loss"]) == (9, 5 / 9, 1.0)
    np.testing.assert_array_equal(result[EXAMPLES].confidences, CONFIDENCES)
    np.testing.assert_array_equal(result[EXAMPLES].predictions, PREDICTIONS)


def judging(folder_dir, num_classes=4):
    model = types.SimpleNamespace(num_classes=num_classes)  # which has no part in writing
    card = Card("resnet18", {}, Preprocessing(32), WNIDS)
    source = load_source("folder", folder_dir)
    return Judging.of(Classification(model, card, 4, lambda: source))


@pytest.fixture
def said(folder_dir):
    """Of the folder tree's validation: answers that are right but for the first and the sixth picture."""
    labels = np.repeat(np.arange(4), [4, 4, 3, 3])
    assert len(labels) == VALIDATION_EXAMPLES < TRAIN_PER_CLASS * 4
    answers = labels.copy()
    answers[0], answers[5] = 3, 2
    confidences = np.full(len(labels), 0.75, np.float32)
    confidences[5] = 0.99
    examples = Examples(labels, answers, confidences)
    return {"loss": 0.5, "top1": 12 / 14, "top5": 1.0, "count": 14, EXAMPLES: examples}


def test_a_report_is_a_page_its_pictures_and_json(folder_dir, said, tmp_path):
    task = judging(folder_dir)
    curves = figures.pairs([("a", "b", 1)])  # any picture
    page = write_report(tmp_path / "new" / "report", task, said, title="a <b>", step=3, curves=curves)
    content = json.loads((page.parent / "report.json").read_text())
    text = page.read_text()
    names = ["mistakes.png", "reliability.png", "confused.png", "confusion.png", "curves.png"]
    for name in names:
        assert f'src="{name}"' in text
        with Image.open(page.parent / name) as picture:
            assert min(picture.size) > 100
    assert "a &lt;b&gt;" in text and "http" not in text and "<script" not in text
    assert (content["step"], content["top1"], content["count"]) == (3, 12 / 14, 14)
    assert [each["class"] for each in content["classes"]] == ["tench", "goldfish", "great white shark", "tiger shark"]
    assert [each["accuracy"] for each in content["classes"]] == [0.75, 0.75, 1.0, 1.0]
    first, second = content["mistakes"]
    assert (first["class"], first["answer"]) == ("goldfish", "great white shark")
    assert first["image"] == task.source.describe("validation", 5)
    assert second["image"] == task.source.describe("validation", 0)
    assert np.trace(content["confusion"]) == 12


def test_many_classes_show_the_confused_pairs_alone(folder_dir, said, tmp_path):
    labels = np.arange(14) * 70
    wrong = Examples(labels, labels + np.arange(1, 15), said[EXAMPLES].confidences)  # 14 pairs of 28 classes
    more = Examples(labels, (labels + 35) % 1000, said[EXAMPLES].confidences)
    both = Examples(*(np.concatenate(pair) for pair in zip(vars(wrong).values(), vars(more).values(), strict=True)))
    matrix = confusion_matrix(both, 1000)
    assert (matrix.sum(axis=0) + matrix.sum(axis=1) > 0).sum() > 30
    task = judging(folder_dir, 1000)
    task.__dict__["source"] = types.SimpleNamespace(
        describe=lambda split, index: str(index), eval_rows=lambda split, start, stop: task_rows(folder_dir, start)
    )
    page = write_report(tmp_path, task, said | {EXAMPLES: both})
    assert "confusion.png" not in page.read_text() and not (tmp_path / "confusion.png").exists()
    assert len(json.loads((tmp_path / "report.json").read_text())["confused"]) == 20


def task_rows(folder_dir, start):
    return load_source("folder", folder_dir).eval_rows("validation", start % 14, start % 14 + 1)


def test_no_mistakes_are_a_report_too(folder_dir, said, tmp_path):
    labels = said[EXAMPLES].labels
    page = write_report(
        tmp_path, judging(folder_dir), said | {EXAMPLES: Examples(labels, labels, said[EXAMPLES].confidences)}
    )
    assert json.loads((tmp_path / "report.json").read_text())["mistakes"] == []
    assert "There are none." in page.read_text() and not (tmp_path / "mistakes.png").exists()
