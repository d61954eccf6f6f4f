"""`eca-jax COMMAND`: a thin face over the package. Bad input ends with one line and exit status 2."""

import argparse
import importlib
import importlib.util
import io
import os
import sys
from typing import NoReturn

from eca_jax.commands import huge_pages
from eca_jax.version import __version__

# What each command is for. The module of its name is imported only when the command is asked for, since some need more
# packages than others; its `add_parsers(subparsers)` adds a parser that sets `run`, a function of the parsed arguments
# that returns the exit status.
COMMANDS = {
    "train": "trains a recipe, or goes on where its workdir's newest checkpoint left off",
    "plan": "compiles a recipe's training step for a TPU slice, without one",
    "list": "names of the models",
    "info": "parameters and multiply-adds of a model",
    "tables": "the paper's complexity tables, ours beside theirs",
    "convert": "weights from PyTorch to Flax, or back",
    "verify": "compare a model with its PyTorch original on your own weights",
    "evaluate": "accuracy on a validation set, every image once",
    "predict": "classes of images",
    "sweep": "trains the rows of a comparison over seeds, and writes their table",
    "visualize": "what a model's attention does on a split: figures, numbers and a page",
    "detect": "boxes, classes and masks of the objects in images",
    "serve": "models behind HTTP, and a page to try them",
    "export": "model and weights as one file that needs only JAX",
    "scale-report": "throughput and limits of TPU slices, from dry runs",
    "bench": "speed, with the peer beside it",
    "completion": "a script by which a shell completes all of this",
}


def leave_libtpu_alone() -> None:
    """Keeps JAX from asking libtpu for a TPU that is not here: installed for plans alone, it fails in five lines."""
    if "JAX_PLATFORMS" not in os.environ and importlib.util.find_spec("libtpu") and not huge_pages.accelerated():
        os.environ["JAX_PLATFORMS"] = "cpu"


def print_names_as_bytes() -> None:
    """Names of files are printed as they are on disk, also those that are no text in the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


class Parser(argparse.ArgumentParser):
    """Its errors are exceptions, for `main` to print in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (`{self.prog} --help` says more)")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    if argv is None:  # this process is the command
        argv = sys.argv[1:]
        leave_libtpu_alone()
        print_names_as_bytes()
        if argv[:1] in (["train"], ["sweep"]) or argv[:2] == ["bench", "step"]:
            huge_pages.take()
    if argv[:1] in (["train"], ["plan"]):  # whose recipes have keys of their own
        from eca_jax.commands import train

        return train.main(argv)
    parser = Parser(prog="eca-jax", description="ECA-Net in JAX/Flax.")
    parser.add_argument("--version", action="version", version=f"eca-jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    try:
        for name, text in COMMANDS.items():
            if argv[:1] == [name]:
                module = importlib.import_module(f"eca_jax.commands.{name.replace('-', '_')}")
                module.add_parsers(subparsers)
            else:
                subparsers.add_parser(name, help=text)
        args = parser.parse_args(argv)
        return args.run(args)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
