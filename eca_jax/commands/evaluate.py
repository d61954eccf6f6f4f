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
        task = Classification.of_weights(weights, source, args.batch_size)
    metrics = evaluate_weights(task, weights.variables, args.batch_size)
    if args.json:
        print(json.dumps({"model": weights.card.model, "data": data, **metrics}))
    else:
        print(f"{weights.card.model}: {task.describe(metrics)}")
        print(f"on {metrics['count']} images of {data}")
        if detects:
            print("\n".join(figure_lines(metrics)))
    return 0


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
