"""What a run writes about itself: `metrics.jsonl`, `curves.png`, and what `eca_jax.training.writers` take of it.

`metrics.jsonl` is the record of the run: one JSON object a line with `step`, `epoch`, `split`, `loss`, `count` and the
task's other metrics. A resumed run cuts it back to the step it resumes from, so the file of an interrupted run ends
up equal to that of an uninterrupted one.
"""

import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from eca_jax.files import write_whole, writing
from eca_jax.training.writers import Writer

METRICS_FILE = "metrics.jsonl"

# What a step says of itself and not of its examples: averaged over the steps of a window.
PER_STEP = ("gradient_norm",)

# Fields of a line that tell the time, and so differ between a run and the same run resumed.
TIMINGS = ("images_per_second", "input_wait", "epoch_seconds")


class Window:
    """Sums of metrics over some steps, in float64 on the host."""

    def __init__(self, values: Mapping[str, float] | None = None):
        self.values = dict(values or {})

    def add(self, sums: Mapping[str, float]) -> None:
        """Takes one step's: sums over its examples, and what is in `PER_STEP`."""
        for key, value in {**sums, "steps": 1.0}.items():
            self.values[key] = self.values.get(key, 0.0) + float(value)

    def means(self) -> dict[str, float | int]:
        """Every metric as a mean over "count" examples (0 examples: means of 0), or over the steps."""
        sums = dict(self.values)
        steps, count = sums.pop("steps"), sums.pop("count")
        means = {key: value / (steps if key in PER_STEP else max(count, 1.0)) for key, value in sums.items()}
        return means | {"count": int(count)}


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a workdir's metrics.jsonl, oldest first.

    A last line cut short by a kill, and blank ones, are left out; so are damaged ones (power loss, another program),
    which are logged by their numbers.
    """
    path = epath.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.strip() or not line.endswith(b"\n"):
            continue
        try:
            found.append(_read_line(line))
        except ValueError:
            logging.warning("%s, line %d, is damaged and left out", path, number)
    return found


def _read_line(line: bytes) -> dict[str, Any]:
    """ValueError unless the line is an object that says of which step and split it is."""
    content = json.loads(line)
    if not isinstance(content, dict) or not {"step", "epoch", "split", "loss"} <= content.keys():
        raise ValueError("no line of metrics")
    return content


def best_evaluation(lines: Iterable[Mapping[str, Any]], metric: str) -> Mapping[str, Any] | None:
    """The validation line of highest `metric`, of equals that of lowest loss, or None before the first evaluation.

    A run that keeps a moving average of its weights is judged by the average's lines ("validation_ema").
    """
    lines = [line for line in lines if line["split"].startswith("validation")]
    averaged = [line for line in lines if line["split"] == "validation_ema"]
    return max(averaged or lines, key=lambda line: (line[metric], -line["loss"], -line["step"]), default=None)


class MetricsWriter:
    """Appends to metrics.jsonl and hands every line on. Only process 0 writes; on the others it keeps the lines."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        resume_step: int = 0,
        primary: bool = True,
        writers: Callable[[], Sequence[Writer]] = list,
    ):
        """Cuts metrics.jsonl back to `resume_step`: what comes after it will be computed again.

        Args:
          writers: makes those that each line is handed on to; called in the primary process.
        """
        self.lines = [line for line in read_metrics(workdir) if line["step"] <= resume_step]
        self._path = epath.Path(workdir) / METRICS_FILE
        self._primary = primary
        self._writers: Sequence[Writer] = []
        if primary:
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
            self._writers = writers()

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        line = {"step": step, "epoch": epoch, "split": split, **values}
        self.lines.append(line)
        if not self._primary:
            return
        with writing(self._path), self._path.open("a") as file:  # a bucket takes all of it again, which is small
            file.write(json.dumps(line) + "\n")
        for writer in self._writers:
            writer.write(step, epoch, split, values)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def plot_curves(workdir: str | os.PathLike, metric: str) -> epath.Path:
    """Draws the loss and one metric over epochs from metrics.jsonl into `curves.png`; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = read_metrics(workdir)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for split in dict.fromkeys(line["split"] for line in lines):
        chosen = [line for line in lines if line["split"] == split]
        epochs = [line["epoch"] for line in chosen]
        for name, panel in zip(("loss", metric), axes, strict=True):
            if all(name in line for line in chosen):
                values = [line[name] for line in chosen]
                panel.plot(epochs, values, marker="" if split == "train" else ".", label=split.replace("_", " "))
    axes[0].set(xlabel="epoch", ylabel="loss", yscale="log")
    axes[1].set(xlabel="epoch", ylabel=metric)
    for panel in axes:
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend()
    image = io.BytesIO()
    figure.savefig(image, dpi=120, format="png")
    plt.close(figure)
    path = epath.Path(workdir) / "curves.png"
    write_whole(path, image.getvalue())
    return path
