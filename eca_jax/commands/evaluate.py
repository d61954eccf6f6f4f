"""`eca-jax evaluate`."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from eca_jax.commands.options import add_dtype, add_weights, positive, read
from eca_jax.files import absolute
from eca_jax.weights import store


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("evaluate", help="accuracy on a validation set, every image once")
    add_weights(parser)
    add_dtype(parser)
    parser.add_argument("--data", help="imagenet2012 (the default), folder or digits; a workdir knows its own")
    parser.add_argument("--data_dir", help="where the data set is")
    parser.add_argument("--batch_size", type=positive, default=64, help="over all devices (64)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from eca_jax.data import load_source
    from eca_jax.tasks.classification import Classification
    from eca_jax.training.evaluate import evaluate_weights

    recipe = _recipe(args.weights)
    data = args.data or recipe.get("dataset") or "imagenet2012"
    where = args.data_dir or (recipe.get("data_dir") if data == recipe.get("dataset") else None)
    source = load_source(data, where or None, splits=("validation",))
    weights = read(args)
    task = Classification.of_weights(weights, source, args.batch_size)
    metrics = evaluate_weights(task, weights.variables, args.batch_size)
    if args.json:
        print(json.dumps({"model": weights.card.model, "data": data, **metrics}))
    else:
        print(f"{weights.card.model}: {task.describe(metrics)}")
        print(f"on {metrics['count']} images of {data}")
    return 0


def _recipe(path: str) -> Mapping[str, Any]:
    """That of a training workdir, which knows its data; empty for other weights."""
    directory = absolute(path)
    return store.read_config(directory).get("config", {}) if (directory / store.CHECKPOINTS).is_dir() else {}
