"""Running a sweep: run after run in this process, each a workdir that goes on where it was left off.

A run is finished when its metrics.jsonl has the validation of its last step; there is no other record. On a pod every
process calls `run_sweep`, and all do the same runs in the same order.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from eca_jax import sharding
from eca_jax.analysis.sweep import Result, Row, Run, Summary, Sweep, markdown, summarize, table
from eca_jax.config import differences, plain
from eca_jax.data.order import steps_per_epoch
from eca_jax.files import absolute, write_whole
from eca_jax.tasks.task import create_task
from eca_jax.training.loop import NonFiniteLoss, train
from eca_jax.training.metrics import best_evaluation, read_metrics
from eca_jax.training.workdir import FREE
from eca_jax.weights.card import CONFIG_FILE
from eca_jax.weights.store import read_config


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
      interrupted: by SIGTERM; the same call goes on.
      diverged: {(row, seed): why} of runs whose loss became infinite or NaN.
    """

    interrupted: bool
    diverged: Mapping[tuple[str, int], str]


def run_sweep(
    sweep: Sweep,
    root: str | os.PathLike,
    *,
    seeds: int = 1,
    shard: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = print,
) -> Outcome:
    """Trains what is not finished, and writes the tables and the plot into `root` after every run.

    Args:
      shard: see `Sweep.runs`.
      say: told of every run's start and of the table's place.

    Raises:
      ValueError, OSError: a recipe, its data or a workdir cannot be used; one line.
    """
    path = absolute(root)
    diverged: dict[tuple[str, int], str] = {}
    runs = sweep.runs(seeds, shard)
    parameters = {row.name: parameters_of(row) for row in sweep.rows}
    for number, run in enumerate(runs, 1):
        workdir = path / run.directory
        # Process 0 decides for all: another may see the files a moment later.
        if sharding.gathered(np.array(result_of(run, path) is not None))[0]:
            continue
        say(f"run {number} of {len(runs)}: {run.directory}")
        try:
            if train(run.config, workdir) is None:
                return Outcome(True, diverged)
        except NonFiniteLoss as error:
            diverged[run.row.name, run.seed] = str(error)
            say(f"diverged: {error}")
        jax.clear_caches()  # the programs of a run serve no other
        _write(sweep, path, parameters, seeds, diverged)
    _write(sweep, path, parameters, seeds, diverged)
    say(f"{path}/table.md")
    return Outcome(False, diverged)


def parameters_of(row: Row) -> int:
    """Parameters of a row's network, which is traced and not made.

    Raises:
      ValueError: the recipe is wrong, or is of a task without top-1: said before anything is trained.
    """
    task = create_task(row.config)
    if task.best != "top1":
        raise ValueError(f"a sweep compares top-1, and {task.name} of row {row.name!r} is judged by {task.best}")
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def result_of(run: Run, root: epath.Path) -> Result | None:
    """The result of a finished run; None where it is not finished.

    Raises:
      ValueError: what lies there is a run of another recipe.
    """
    workdir, config = root / run.directory, run.config
    if not (workdir / CONFIG_FILE).exists():
        return None
    content = read_config(workdir)
    for key, (old, new) in differences(content["config"], _as_json(plain(config))).items():
        if key not in FREE:
            raise ValueError(f"{workdir} is a run of another recipe: {key} is {old!r} there and {new!r} here")
    examples = content["train_examples"]
    last = steps_per_epoch(examples, config["batch_size"]) * config["num_epochs"]
    split = "validation_ema" if config["ema_decay"] else "validation"
    lines = read_metrics(workdir)
    final = next((line for line in lines if line["step"] == last and line["split"] == split), None)
    best = best_evaluation([line for line in lines if line["step"] <= last], "top1")
    if final is None or best is None:
        return None
    return Result(final["top1"], best["top1"], final["count"])


def _as_json(value: Any) -> Any:
    """As config.json holds it, where tuples are lists."""
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
    return [_as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def _write(
    sweep: Sweep,
    root: epath.Path,
    parameters: Mapping[str, int],
    seeds: int,
    diverged: Mapping[tuple[str, int], str],
) -> None:
    """table.md, table.csv, runs.csv, plot.png and plot.svg of what is finished, whichever process trained it."""
    if jax.process_index():
        return
    found = {(run.row.name, run.seed): result_of(run, root) for run in sweep.runs(seeds)}
    results = {key: result for key, result in found.items() if result is not None}
    remarks: dict[str, str] = {}
    for name, seed in diverged:
        remarks[name] = "; ".join(filter(None, (remarks.get(name, ""), f"seed {seed} diverged")))
    summaries = summarize(sweep, results)
    root.mkdir(parents=True, exist_ok=True)
    lines = table(sweep, summaries, parameters, seeds, remarks)
    write_whole(root / "table.md", markdown(sweep.name, lines, summaries).encode())
    _write_csv(root / "table.csv", lines)
    runs = [[name, seed, run.top1, run.best, run.count] for (name, seed), run in results.items()]
    _write_csv(root / "runs.csv", [["row", "seed", "top1", "best_top1", "count"], *runs])
    if summaries:
        from eca_jax.analysis.gallery import save_picture

        save_picture(root, "plot", plot(sweep, summaries))


def plot(sweep: Sweep, summaries: Mapping[str, Summary]) -> Any:
    """Top-1 of each row, every seed a point, mean and sample deviation; rows without a number are bands across."""
    from eca_jax.analysis.figures import COLOURS, new_figure

    rows = [row for row in sweep.rows if row.name in summaries]
    over_numbers = any(row.x is not None for row in rows)
    figure = new_figure(max(6.0, 1.0 * len(rows) + 2), 4.5)
    panel = figure.subplots()
    places: list[float] = []
    for number, row in enumerate(rows):
        one, colour = summaries[row.name], COLOURS[number % len(COLOURS)]
        spread = one.deviation if len(one.values) > 1 else 0.0
        if over_numbers and row.x is None:
            panel.axhline(one.mean, color=colour, linestyle="--", label=row.label)
            panel.axhspan(one.mean - spread, one.mean + spread, color=colour, alpha=0.15, linewidth=0)
            continue
        x = float(number if row.x is None else row.x)
        places.append(x)
        panel.errorbar(x, one.mean, spread, fmt="os^D"[number % 4], color=colour, capsize=4, label=row.label)
        panel.scatter([x] * len(one.values), list(one.values.values()), s=10, color="black", zorder=3)
    if over_numbers:
        panel.set_xticks(sorted(set(places)))
        panel.set_xlabel(sweep.axis)
    else:
        panel.set_xticks(places, [row.label for row in rows], rotation=30, ha="right")
    panel.set_ylabel("top-1 (%), last epoch; points are seeds")
    panel.margins(x=0.1)
    panel.grid(alpha=0.25)
    figure.legend(loc="outside upper center", ncols=min(len(rows), 5), fontsize=8, frameon=False)
    return figure


def _write_csv(path: epath.Path, lines: Sequence[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_whole(path, text.getvalue().encode())
