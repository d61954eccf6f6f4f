"""`eca-jax evaluate`."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from eca_jax.commands.options import add_dtype, add_weights, positive, read
from eca_jax.files import absolute
from eca_jax.models.detection.detector import Detector
from eca_jax.tasks.coco import FIGURES
from eca_jax.tasks.task import Task
from eca_jax.weights import store


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("evaluate", help="accuracy or COCO's figures on a validation set, every image once")
    add_weights(parser)
    add_dtype(parser)
    parser.add_argument(
        "--data",
        help="imagenet2012 (the default), folder, digits; of detectors coco, yolo, shapes; a workdir knows its own",
    )
    parser.add_argument("--data_dir", help="where the data set is")
    parser.add_argument("--batch_size", type=positive, default=64, help="over all devices (64)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="write a page about where the model errs there; a workdir on its own data has WORKDIR/report",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from eca_jax.training.evaluate import evaluate_weights

    recipe = _recipe(args.weights)
    weights = read(args)
    detects = isinstance(weights.model, Detector)
    data = args.data or recipe.get("dataset") or ("coco" if detects else "imagenet2012")
    where = args.data_dir or (recipe.get("data_dir") if data == recipe.get("dataset") else None)
    task: Task
    if detects:
        from eca_jax.tasks.detection import Detection

        task = Detection.of_weights(weights, data, where or "", args.batch_size)
    else:
        from eca_jax.data import load_source
        from eca_jax.tasks.classification import Classification

        source = load_source(data, where or None, splits=("validation",))
        task = Classification.of_weights(weights, source, args.batch_size, upright=recipe.get("upright", False))
        if args.report or _reports_itself(recipe, data, where):
            from eca_jax.analysis.report import Judging

            task = Judging.of(task)
    metrics = evaluate_weights(task, weights.variables, args.batch_size)
    page = None if detects else _report(args, task, metrics, data, weights.step)
    if args.json:
        print(json.dumps({"model": weights.card.model, "data": data, **metrics}))
    else:
        print(f"{weights.card.model}: {task.describe(metrics)}")
        of_step = "" if weights.step is None else f", step {weights.step}{', averaged weights' * weights.averaged}"
        print(f"on {metrics['count']} images of {data}{of_step}")
        if page:
            print(f"report: {page}")
        if detects:
            print("\n".join(figure_lines(metrics)))
    return 0


def _reports_itself(recipe: Mapping[str, Any], data: str, where: str | None) -> bool:
    """Whether the weights are those of a run that keeps a report, and are evaluated on its own data."""
    own = (recipe.get("dataset"), recipe.get("data_dir") or None)
    return bool(recipe.get("report")) and ":" not in data and own == (data, where or None)


def _report(args: argparse.Namespace, task: Task, metrics: dict[str, Any], data: str, step: int | None) -> str | None:
    """Writes the report where the evaluation was made for one; takes what it is made of out of the metrics."""
    from eca_jax.analysis.report import EXAMPLES, Judging, write_report, write_run_report

    if not isinstance(task, Judging):
        return None
    try:
        if args.report:
            title = f"{task.name} on {data}"
            return str(write_report(args.report, task, metrics, title=title, step=step))
        return str(write_run_report(args.weights, task, metrics, step))
    finally:
        metrics.pop(EXAMPLES)


def figure_lines(metrics: Mapping[str, Any]) -> list[str]:
    """COCO's twelve figures a line each, of boxes and where there are any of masks; -1 where no object is of a size."""
    kinds = [kind for kind in ("box", "mask") if f"{kind}_ap" in metrics]
    lines = [f"{'':12}" + "".join(f"{kind:>8}" for kind in kinds)]
    for name in FIGURES:
        lines.append(f"{name:12}" + "".join(f"{metrics[f'{kind}_{name}']:8.3f}" for kind in kinds))
    return lines


def _recipe(path: str) -> Mapping[str, Any]:
    """That of a training workdir, which knows its data; empty for other weights."""
    directory = absolute(path)
    return store.read_config(directory).get("config", {}) if (directory / store.CHECKPOINTS).is_dir() else {}
