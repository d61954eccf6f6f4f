"""`eca-jax evaluate`."""

import argparse
import json
from typing import Any

from eca_jax.commands.options import add_dtype, add_weights, positive, read


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("evaluate", help="accuracy on a validation set, every image once")
    add_weights(parser)
    add_dtype(parser)
    parser.add_argument("--data", default="imagenet2012", help="imagenet2012, folder or digits")
    parser.add_argument("--data_dir", default="", help="where the data set is; see the README")
    parser.add_argument("--batch_size", type=positive, default=64, help="over all devices (64)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from eca_jax.data import load_source
    from eca_jax.tasks.classification import Classification
    from eca_jax.training.evaluate import evaluate_weights

    source = load_source(args.data, args.data_dir)
    weights = read(args)
    task = Classification(weights.model, weights.card, args.batch_size, lambda: source)
    metrics = evaluate_weights(task, weights.variables, args.batch_size)
    if args.json:
        print(json.dumps({"model": weights.card.model, "data": args.data, **metrics}))
    else:
        print(f"{weights.card.model}: {task.describe(metrics)}")
        print(f"on {metrics['count']} images of {args.data}")
    return 0
