"""`eca-jax convert`."""

import argparse
from typing import Any

from flax.traverse_util import flatten_dict

from eca_jax.commands.options import add_weights, positive, read
from eca_jax.weights.load import Weights
from eca_jax.weights.save import RELEASE, convert, ending_of
from eca_jax.weights.torch.release import read_trained


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="weights from PyTorch to Flax, or back",
        usage="%(prog)s [OPTIONS] SRC DST",
        description="Weights from PyTorch to Flax, or back. DST is a PyTorch file where it ends in .safetensors, .pth, "
        ".pt, or .pth.tar (the form of the released training script, for its --resume), and a weights directory where "
        "it has no ending. What belongs to the model, its options, its preprocessing and the names of its classes, "
        "goes along. Nothing is written unless every tensor fits.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="SRC DST", help="from where, and where to; --weights is another SRC"
    )
    add_weights(parser, required=False)
    parser.add_argument("--num_classes", type=positive, help="insist on this number; by default the weights tell")
    parser.add_argument(
        "--in_chans", type=positive, help="channels of the images: adapts weights of 3 to 1 (grey), 4 (RGBA) or others"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    sources = [args.weights, *args.paths[:-1]] if args.weights else args.paths[:-1]
    if len(sources) != 1:
        raise ValueError(f"convert takes a source and a destination, not {' '.join(args.paths)}")
    args.weights, destination = sources[0], args.paths[-1]
    ending = ending_of(destination)
    chosen = {key: value for key in ("num_classes", "in_chans") if (value := getattr(args, key)) is not None}
    weights = read(args, **chosen)
    trained = None
    if ending == RELEASE and weights.step is not None:
        trained = read_trained(args.weights, weights.step, averaged=weights.averaged)
        if weights.averaged:
            print("these are the averaged weights, so no momentum goes with them; --raw keeps it")
    convert(weights, destination, format=args.format, trained=trained)
    count = len(flatten_dict(weights.variables))
    print(f"{describe(weights)}: {count} tensors written to {destination}")
    return 0


def describe(weights: Weights) -> str:
    """ "eca_resnet50 (num_classes=10, kernel_sizes=(3, 3, 3, 3))"."""
    options = ", ".join(f"{key}={value}" for key, value in weights.card.options.items())
    return f"{weights.card.model} ({options})"
