"""`eca-jax export`."""

import argparse
from typing import Any

from eca_jax.commands.options import add_classes, add_dtype, add_weights, read
from eca_jax.inference.export import INPUTS, PLATFORMS, export, export_saved_model
from eca_jax.models.detection.detector import Detector


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "export",
        help="model and weights as one file that needs only JAX",
        description="Writes one file that `eca_jax.load_exported`, or a few lines of JAX and NumPy, can run.",
    )
    add_weights(parser)
    add_dtype(parser)
    add_classes(parser)
    parser.add_argument("out", metavar="OUT", help="the file to write, such as model.npz")
    parser.add_argument("--saved_model", action="store_true", help="write a TensorFlow SavedModel, a directory")
    parser.add_argument("--input", default="uint8", choices=INPUTS, help="pixels, or pixels normalised by the caller")
    everywhere = ",".join(PLATFORMS)
    parser.add_argument("--platforms", default=everywhere, help=f"what it shall run on ({everywhere})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    weights = read(args)
    write = export_saved_model if args.saved_model else export
    write(args.out, weights, input=args.input, platforms=args.platforms.split(","))
    how = weights.card.preprocessing
    what = f"[N, S, S, {how.channels}] of {how.image_size} pixels"
    if isinstance(weights.model, Detector):
        what = f"of a short side of {how.image_size} pixels, and their sizes"
    print(f"{args.out}: {weights.card.model}, {args.input} images {what}")
    return 0
