"""`eca-jax list`."""

import argparse

from eca_jax.models.registry import list_models


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("list", help="names of the models")
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, such as 'eca_*'")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; `eca-jax list` shows them all")
    print("\n".join(names))
    return 0
