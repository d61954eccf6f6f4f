"""`python -m eca_jax COMMAND`: a thin face over the package. Bad input ends with one line and exit status 2."""

import argparse
import importlib
import os
import sys

# Name, help and module of each command. The module is imported only when its command is asked for, since some need
# more packages than others; its `add_parsers(subparsers)` adds its commands, and each parser sets `run`, a function
# of the parsed arguments that returns the exit status.
COMMANDS = (
    ("train", "trains a recipe, or goes on where its workdir's newest checkpoint left off", "eca_jax.commands.train"),
    ("plan", "compiles a recipe's training step for a TPU slice, without one", "eca_jax.commands.train"),
    ("list", "names of the models", "eca_jax.commands.list"),
    ("info", "parameters and multiply-adds of a model", "eca_jax.commands.info"),
    ("convert", "weights from PyTorch to Flax, or back", "eca_jax.commands.convert"),
    ("verify", "compare a model with its PyTorch original on your own weights", "eca_jax.commands.convert"),
    ("evaluate", "accuracy on a validation set, every image once", "eca_jax.commands.predict"),
    ("predict", "classes of images", "eca_jax.commands.predict"),
    ("export", "model and weights as one file that needs only JAX", "eca_jax.commands.predict"),
    ("scale-report", "throughput and limits of TPU slices, from dry runs", "eca_jax.commands.scale_report"),
    ("bench", "speed, with the peer beside it", "eca_jax.commands.bench"),
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["train"], ["plan"]):  # whose recipes have keys of their own
        from eca_jax.commands import train

        return train.main(argv)
    parser = argparse.ArgumentParser(prog="python -m eca_jax", description="ECA-Net in JAX/Flax.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    try:
        for name, _, module in COMMANDS:
            if argv[:1] == [name]:
                importlib.import_module(module).add_parsers(subparsers)
        for name, text, _ in COMMANDS:
            if name not in subparsers.choices:
                subparsers.add_parser(name, help=text)
        args = parser.parse_args(argv)
        return args.run(args)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
