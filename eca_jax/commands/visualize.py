"""`eca-jax visualize`."""

import argparse
import shlex
import sys
from typing import Any

from eca_jax.commands.options import add_classes, add_dtype, add_weights, positive, read
from eca_jax.files import absolute
from eca_jax.weights import store


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "visualize",
        help="what a model's attention does: figures, their numbers and a page of them",
        epilog="Writes PNG, SVG and CSV files and index.html, a page without scripts, into OUT.",
    )
    parser.add_argument("out", help="a directory, made where it is not there")
    add_weights(parser)
    add_classes(parser)
    add_dtype(parser)
    parser.add_argument("--against", metavar="PATH", help="weights of a second model, drawn below the first")
    parser.add_argument("--against_model", metavar="NAME", help="its name, where the weights do not tell")
    parser.add_argument("--data", help="imagenet2012 (the default), folder or digits; a workdir knows its own")
    parser.add_argument("--data_dir", help="where the data set is")
    parser.add_argument("--batch_size", type=positive, default=64, help="over all devices (64)")
    parser.add_argument("--blocks", default="*", help="patterns of the blocks to draw, by commas: 'layer4_*,layer3_5'")
    parser.add_argument("--show", default="", metavar="CLASSES", help="names of the classes to draw, by commas")
    parser.add_argument(
        "--channels", type=positive, default=64, help="draw at most that many of a block, evenly spaced (64)"
    )
    parser.add_argument("--effect", action="store_true", help="accuracy with gates replaced, by more passes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from eca_jax.analysis.visualize import Look, visualize
    from eca_jax.data import load_source
    from eca_jax.weights.load import read_weights

    directory = absolute(args.weights)
    recipe = store.read_config(directory).get("config", {}) if (directory / store.CHECKPOINTS).is_dir() else {}
    data = args.data or recipe.get("dataset") or "imagenet2012"
    where = args.data_dir or (recipe.get("data_dir") if data == recipe.get("dataset") else None)
    source = load_source(data, where or None, splits=("validation",))
    models = [read(args)]
    if args.against:
        second = read_weights(args.against, args.against_model, dtype=args.dtype)
        names = models[0].class_names
        models.append(second.with_class_names(names) if args.classes and names else second)
    look = Look(args.blocks.split(","), [c for c in args.show.split(",") if c], args.channels, args.effect)
    facts = [("command", shlex.join(["eca-jax", *sys.argv[1:]])), ("weights", args.weights)]
    facts += [("against", args.against)] if args.against else []
    for picture in visualize(absolute(args.out), models, source, args.batch_size, look, facts):
        print(f"{args.out}/{picture.name}.png  {picture.title}")
    print(f"{args.out}/index.html")
    return 0
