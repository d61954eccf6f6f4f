"""What the commands that take weights have in common: the arguments that say which, and the reading.

Importing it imports no Flax, which a server of an exported model does without.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eca_jax.weights.load import Weights


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="a name that `list` shows; not needed where the weights tell")


def add_weights(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The arguments that `read` needs."""
    from eca_jax.weights.torch.names import FORMATS

    parser.add_argument(
        "--weights",
        metavar="PATH",
        required=required,
        help="training workdir, weights directory, Hugging Face folder, or file: .safetensors, .pth, .pth.tar",
    )
    add_model(parser)
    parser.add_argument("--step", type=step, help="of a workdir: a step, or 'best' (the default)")
    parser.add_argument("--raw", action="store_true", help="not the moving average of the weights, where that is there")
    parser.add_argument("--part", help="of a file that holds several: the entry or the prefix of the weights to take")
    parser.add_argument(
        "--format", choices=FORMATS, help="whose names the tensors of a PyTorch file have (default: the model's own)"
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the computation")


def add_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classes", metavar="FILE", help="a text file with one class name a line, in their order")


def read(args: argparse.Namespace, **overrides: Any) -> "Weights":
    """The weights that the arguments name; what a person should know of how they were read goes to standard error."""
    from eca_jax.weights.load import read_weights

    weights = read_weights(
        args.weights,
        args.model,
        dtype=getattr(args, "dtype", "float32"),
        format=args.format,
        step=args.step,
        ema=not args.raw,
        part=args.part,
        **overrides,
    )
    for remark in weights.remarks:
        print(remark, file=sys.stderr)
    if getattr(args, "classes", None):
        weights = weights.with_class_names(read_class_names(args.classes))
    return weights


def step(text: str) -> int | str:
    """A type of arguments that are a step or 'best'."""
    if text == "best":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number or 'best', not {text!r}") from None


def read_class_names(path: str) -> list[str]:
    """The lines of a file; blank ones at its end do not count."""
    try:
        return Path(path).read_text("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8") from None


def positive(text: str) -> int:
    """A type of arguments that are 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a number of 1 or more, not {text}")
    return number
