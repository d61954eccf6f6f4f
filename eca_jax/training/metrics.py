"""What a run writes about itself: `metrics.jsonl`, TensorBoard events and `curves.png`.

`metrics.jsonl` is the record of the run: one JSON object a line with `step`, `epoch`, `split`, `loss`, `top1`,
`top5` and `count`. A resumed run cuts it back to the step it resumes from, so the file of an interrupted run
ends up equal to that of an uninterrupted one.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from eca_jax.files import write_whole, writing

METRICS_FILE = "metrics.jsonl"
SUM_KEYS = ("loss", "top1", "top5", "count")


class Sums:
    """Sums of metrics over examples, in float64 on the host; their means are the metrics."""

    def __init__(self, values: Mapping[str, float] | None = None):
        self.values = {key: float((values or {}).get(key, 0)) for key in SUM_KEYS}

    def add(self, sums: Mapping[str, Any]) -> None:
        for key in SUM_KEYS:
            self.values[key] += float(sums[key])

    def means(self) -> dict[str, float | int]:
        """{"loss", "top1", "top5"} as means over "count" examples (0 examples: means of 0)."""
        count = self.values["count"]
        return {k: self.values[k] / max(count, 1.0) for k in SUM_KEYS[:-1]} | {"count": int(count)}


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a workdir's metrics.jsonl, oldest first; a last line cut short by a kill is left out."""
    path = epath.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def best_evaluation(lines: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The validation line of highest top-1 (the earliest of equals), or None before the first evaluation.

    A run that keeps a moving average of its weights is judged by the average's lines ("validation_ema").
    """
    lines = [line for line in lines if line["split"].startswith("validation")]
    averaged = [line for line in lines if line["split"] == "validation_ema"]
    return max(averaged or lines, key=lambda line: (line["top1"], -line["step"]), default=None)


class MetricsWriter:
    """Appends to metrics.jsonl and to TensorBoard. Only process 0 writes; on the others `write` does nothing."""

    def __init__(self, workdir: str | os.PathLike, *, resume_step: int = 0, primary: bool = True):
        """Cuts metrics.jsonl back to `resume_step`: what comes after it will be computed again."""
        self.lines = [line for line in read_metrics(workdir) if line["step"] <= resume_step]
        self._path = epath.Path(workdir) / METRICS_FILE
        self._tensorboard = None
        if not primary:
            return
        from eca_jax.data.runtime import tensorflow

        tensorflow()  # before clu imports it, so that it leaves the accelerators to JAX
        from clu.metric_writers import SummaryWriter

        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
        self._tensorboard = SummaryWriter(str(epath.Path(workdir) / "tensorboard"))

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        line = {"step": step, "epoch": epoch, "split": split, **values}
        self.lines.append(line)
        if self._tensorboard is None:
            return
        with writing(self._path), self._path.open("a") as file:  # a bucket takes all of it again, which is small
            file.write(json.dumps(line) + "\n")
        self._tensorboard.write_scalars(step, {f"{split}/{key}": value for key, value in values.items()})

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


def plot_curves(workdir: str | os.PathLike) -> epath.Path:
    """Draws loss and accuracy over epochs from metrics.jsonl into `curves.png`; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = read_metrics(workdir)
    figure, (loss_axes, accuracy_axes) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for split in dict.fromkeys(line["split"] for line in lines):
        chosen = [line for line in lines if line["split"] == split]
        epochs = [line["epoch"] for line in chosen]
        marker = "" if split == "train" else "."
        label = split.replace("_", " ")
        loss_axes.plot(epochs, [line["loss"] for line in chosen], marker=marker, label=label)
        accuracy = np.asarray([line["top1"] for line in chosen]) * 100
        accuracy_axes.plot(epochs, accuracy, marker=marker, label=f"{label} top-1")
    loss_axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy (%)")
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
        if lines:
            axes.legend()
    image = io.BytesIO()
    figure.savefig(image, dpi=120, format="png")
    plt.close(figure)
    path = epath.Path(workdir) / "curves.png"
    write_whole(path, image.getvalue())
    return path
