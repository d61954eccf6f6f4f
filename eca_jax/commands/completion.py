"""`eca-jax completion`: all that there is to complete as a script for a shell, which then imports nothing of this."""

import argparse
import importlib
from typing import Any

from eca_jax.commands import train
from eca_jax.commands.main import COMMANDS
from eca_jax.config import default_config, plain, recipes
from eca_jax.models import list_models
from eca_jax.version import __version__

SHELLS = ("bash", "zsh")


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "completion",
        help=COMMANDS["completion"],
        description="Prints a script by which a shell completes commands, options, recipes, their keys, models and "
        'files. For this shell: eval "$(eca-jax completion bash)". For every one: write it into a file, once and after '
        "an update: ~/.local/share/bash-completion/completions/eca-jax of bash, _eca-jax in a folder of zsh's fpath.",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        raise ImportError("completion needs shtab: pip install 'eca-jax[completion]'") from None
    parser = whole_parser()
    for action in _actions(parser):
        if action.dest in ("model", "against_model"):
            action.choices = list_models()
        elif action.dest == "recipe":
            action.choices = list(recipes())
        elif action.nargs != 0 and action.choices is None and action.type is None:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab looks for
    print(shtab.complete(parser, args.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Of every command with all its options, keys of recipes included; it parses nothing.

    Of a command whose packages are not installed the name alone.
    """
    parser = argparse.ArgumentParser(prog="eca-jax")
    parser.add_argument("--version", action="version", version=__version__, help="what this is")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        if name in ("train", "plan"):
            command = subparsers.add_parser(name, help=text)
            train.add_arguments(command, name)
            for key in _keys(plain(default_config())):
                command.add_argument(f"--config.{key}", help="of the recipe")
            continue
        try:
            importlib.import_module(f"eca_jax.commands.{name.replace('-', '_')}").add_parsers(subparsers)
        except ImportError:
            subparsers.add_parser(name, help=text)
    return parser


def _keys(config: dict[str, Any], prefix: str = "") -> list[str]:
    """Of all values: ["model", "optimizer.name", ...]."""
    found = []
    for key, value in config.items():
        found += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Of the parser and its commands, those of theirs included."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [inner for command in action.choices.values() for inner in _actions(command)]
        else:
            found.append(action)
    return found
