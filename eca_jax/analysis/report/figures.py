"""The report's pictures, each as the bytes of a PNG file."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator
from PIL import Image

_BLUE, _RED, _GREY = "#2166ac", "#b2182b", "0.6"
_COLUMNS = 6


def shortened(text: str, most: int = 22) -> str:
    """With an ellipsis where it is longer than `most` letters; what fonts lack is escaped."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def confusion(matrix: np.ndarray, names: Sequence[str]) -> bytes:
    """Counts int [K, K], true classes down and answers across; the colour is the share of the row."""
    count = len(names)
    side = 2.2 + 0.42 * count
    figure, axes = plt.subplots(figsize=(side + 1.2, side), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [shortened(name) for name in names]
    axes.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), labels)
    axes.set(xlabel="answer", ylabel="class")
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=9)
    return _png(figure)


def pairs(confused: Sequence[tuple[str, str, int]]) -> bytes:
    """Bars of (class, answer, count), the commonest on top."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.3 * len(confused)), layout="constrained")
    places = np.arange(len(confused))
    axes.barh(places, [count for *_, count in confused], color=_RED)
    axes.set_yticks(places, [f"{shortened(label)} → {shortened(answer)}" for label, answer, _ in confused])
    axes.invert_yaxis()
    axes.set(xlabel="images", title="most confused: class → answer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def reliability(ranges: Sequence[dict[str, float]], bins: int, error: float) -> bytes:
    """Accuracy over confidence, with the number of images below."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(5.5, 6), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    middles = [(each["low"] + each["high"]) / 2 for each in ranges]
    width = 1 / bins
    above.bar(middles, [each["accuracy"] for each in ranges], width, color=_BLUE, edgecolor="white", label="accuracy")
    above.plot([0, 1], [0, 1], "--", color=_GREY, label="well calibrated")
    means = [each["confidence"] for each in ranges], [each["accuracy"] for each in ranges]
    above.plot(*means, "o", color=_RED, label="at the mean confidence")
    above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of right answers", title=f"calibration error {error:.1%}")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    below.bar(middles, [each["count"] for each in ranges], width, color=_GREY, edgecolor="white")
    below.set(xlabel="confidence of the answer", ylabel="images")
    below.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def contact_sheet(pictures: Sequence[tuple[Image.Image, str, str, float, str]]) -> bytes:
    """Pictures with "class → answer", the confidence and the file's name."""
    rows = -(-len(pictures) // _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(2.3 * _COLUMNS, 2.9 * rows), layout="constrained")
    for panel in axes.flat:
        panel.axis("off")
    for panel, (image, label, answer, confidence, name) in zip(axes.flat, pictures, strict=False):
        panel.imshow(image)
        panel.set_title(f"{shortened(label)}\n→ {shortened(answer)} ({confidence:.0%})", fontsize=9)
        panel.text(
            0.5, -0.04, shortened(name, 28), transform=panel.transAxes, ha="center", va="top", fontsize=7, color="0.4"
        )
    return _png(figure)


def _png(figure: Any) -> bytes:
    encoded = io.BytesIO()
    figure.savefig(encoded, dpi=110, format="png")
    plt.close(figure)
    return encoded.getvalue()
