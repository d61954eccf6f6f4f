"""The report of a training run: of its best weights, beside its checkpoints."""

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from eca_jax.analysis.report.judging import Judging
from eca_jax.analysis.report.write import REPORT_FILE, write_report
from eca_jax.files import absolute
from eca_jax.tasks.classification import Classification
from eca_jax.training.evaluate import evaluate_weights
from eca_jax.weights import store

_DIRECTORY = "report"


def report_of_run(workdir: str | os.PathLike, task: Classification, batch_size: int) -> epath.Path:
    """Writes WORKDIR/report of the best checkpoint unless it is there; its index.html.

    Raises:
      ValueError, OSError: no checkpoint, data that cannot be read, or nothing can be written; one line.
    """
    stored = store.read(workdir, "best")
    page = absolute(workdir) / _DIRECTORY / "index.html"
    if not (page.exists() and _step(page.parent) == stored.step):
        judging = Judging.of(task)
        metrics = evaluate_weights(judging, stored.variables, batch_size)
        write_run_report(workdir, judging, metrics, stored.step)
    return page


def write_run_report(
    workdir: str | os.PathLike, task: Judging, metrics: Mapping[str, Any], step: int | None
) -> epath.Path:
    """`write_report` into WORKDIR/report, with the run's curves; returns the page."""
    path = absolute(workdir)
    curves = path / "curves.png"
    return write_report(
        absolute(workdir) / _DIRECTORY,
        task,
        metrics,
        title=f"{task.name} of {path.name}, step {step}",
        step=step,
        curves=curves.read_bytes() if curves.exists() else None,
    )


def _step(directory: epath.Path) -> int | None:
    try:
        return json.loads((directory / REPORT_FILE).read_text())["step"]
    except (OSError, ValueError, KeyError):
        return None
