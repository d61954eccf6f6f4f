"""`eca-jax train` and `eca-jax plan`: a recipe, trained in a workdir or compiled for a TPU slice that is not here."""

import argparse
import difflib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from eca_jax.config import load_recipe
from eca_jax.files import absolute

if TYPE_CHECKING:
    from eca_jax.tasks.classification import Classification

TRAIN = """Trains a recipe; resumes where the workdir's newest checkpoint left off.

    eca-jax train eca_resnet50 --workdir=DIR [--config.key=value ...]
    eca-jax train my_recipe.py --workdir=DIR --eval_only       # evaluates the best checkpoint
    eca-jax plan eca_resnet50 v5e:4x4 [--json]                 # compiles for a TPU slice; needs no TPU and no data

A recipe is the name of one that comes with the package or a file of your own; --config=RECIPE says the same. Every key
of `eca_jax.default_config()` is set as --config.key=value, nested ones as --config.optimizer.weight_decay=2e-5.

One process trains on all devices of its host. On a TPU pod, under `srun` and under `mpirun` the same command, started
on every host, becomes one run; elsewhere --coordinator, --num_processes and --process_id say which process this is.

Exit status: 0 when the training is done; 75 when it is not, and the same command goes on from the newest checkpoint:
SIGTERM or Ctrl-C stopped it after saving, or a process was lost; 1 when the loss is not finite; 2 when something asked
for cannot be done. All processes of a run end with the same status.
"""
PLAN = """Compiles a recipe's training step for a TPU slice and says what it takes: memory, estimated time,
communication. Needs no TPU and no data; `eca-jax train RECIPE --dry_run=SLICE` is the same."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def main(arguments: Sequence[str]) -> int:
    """`eca-jax train ...` or `eca-jax plan ...`: `arguments` begin with the command. Returns the exit status."""
    try:
        command, config = parse(arguments)
        if command.dry_run:
            return _plan(config, command.dry_run, command.json)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    from eca_jax.training.runtime.supervise import supervise

    return supervise(lambda: _train(command, config))


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, ml_collections.ConfigDict]:
    """The command line and the recipe, with its overrides.

    Raises:
      ValueError: an unknown flag or key, something missing, or a value of the wrong kind; one line.
      FileNotFoundError: no such recipe.
    """
    name, *rest = arguments
    overrides, rest = _overrides(rest)
    parser = _Parser(
        prog=f"eca-jax {name}",
        description=PLAN if name == "plan" else TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser, name)
    command, unknown = parser.parse_known_args(rest)
    if unknown:
        kind = "unknown flag" if unknown[0].startswith("-") else "unexpected argument"
        raise ValueError(f"{kind} {unknown[0].lstrip('-').partition('=')[0]!r}; --help shows them all")
    if name == "plan" and command.config is not None and command.dry_run is None:  # the one positional is the slice
        command.recipe, command.dry_run = None, command.recipe
    if command.config is not None and command.recipe is not None:
        raise ValueError(f"unexpected argument {command.recipe!r}: the recipe is {command.config}")
    recipe = command.config or command.recipe
    if recipe is None:
        raise ValueError("which recipe? Name one: eca-jax train quickstart, or --config=configs/quickstart.py")
    config = _configured(load_recipe(recipe, _init_from(command, overrides)), overrides)
    for key in ("init_from", "data_dir"):
        if getattr(command, key) is not None:
            config[key] = getattr(command, key)
    if name == "plan" and command.dry_run is None:
        raise ValueError("for which TPU slice? Name one, such as v5e:4x4")
    if not command.dry_run and not command.workdir:
        raise ValueError("where to? Add --workdir=DIR")
    return command, config


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """What `train` or `plan` takes beside the keys of a recipe."""
    parser.add_argument("recipe", nargs="?", help="a recipe's name or file")
    if name == "plan":
        parser.add_argument("dry_run", nargs="?", metavar="slice", help="such as v5e:4x4, v4:2x2x2 or v6e-8")
    else:
        parser.add_argument("--workdir", help="where checkpoints, metrics and curves go; may be gs://BUCKET/...")
        parser.add_argument("--eval_only", action="store_true", help="evaluate the best checkpoint of the workdir")
        parser.add_argument("--dry_run", metavar="SLICE", help="compile for this TPU slice and say the plan")
        parser.add_argument("--coordinator", metavar="HOST:PORT", help="process 0, where all find each other")
        parser.add_argument("--num_processes", type=int, help="how many processes there are")
        parser.add_argument("--process_id", type=int, help="which of them this is, from 0")
    parser.add_argument("--config", help="the recipe, by another way")
    parser.add_argument("--init_from", help="weights to start from; the same as --config.init_from")
    parser.add_argument("--data_dir", help="where the data are; the same as --config.data_dir")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def _init_from(command: argparse.Namespace, overrides: Sequence[str]) -> str:
    """The weights to start from, "" for none: recipes may differ with them."""
    keys = [argument.lstrip("-").partition("=") for argument in overrides]
    said = [value for key, _, value in keys if key == "config.init_from"]
    return command.init_from or (said[-1] if said else "")


def _overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits off what sets keys of the recipe: `--config.key=value`, also with the value as the next argument."""
    overrides: list[str] = []
    rest: list[str] = []
    waiting = False
    for argument in arguments:
        is_key = argument.lstrip("-").startswith(("config.", "noconfig.")) and argument.startswith("-")
        (overrides if is_key or (waiting and not argument.startswith("-")) else rest).append(argument)
        waiting = is_key and "=" not in argument and "noconfig." not in argument
    return overrides, rest


def _configured(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> ml_collections.ConfigDict:
    arguments = ["eca-jax", *overrides]
    values = flags.FlagValues()
    try:
        holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(arguments)
    except flags.Error as error:
        raise ValueError(_unknown_key(config, overrides) or " ".join(str(error).split())) from error
    except AttributeError as error:  # how config_flags reports a key that a locked config does not have
        raise ValueError(_unknown_key(config, overrides) or str(error)) from error
    return holder.value


def _unknown_key(config: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    known = {}  # last part of a key -> the key, since that part is what people remember
    for key, value in config.items():
        known[key] = key
        known |= {inner: f"{key}.{inner}" for inner in value} if hasattr(value, "keys") else {}
    for argument in overrides:
        key = argument.lstrip("-").partition("=")[0].removeprefix("no").removeprefix("config.")
        if key not in known.values():
            near = difflib.get_close_matches(key.rpartition(".")[2], known, n=3)
            where = "eca_jax.default_config() lists the keys"
            return f"unknown config key {key!r}: " + (
                f"did you mean {' or '.join(known[name] for name in near)}?" if near else where
            )
    return None


def _plan(config: Mapping[str, Any], topology: str, as_json: bool) -> int:
    from eca_jax.tpu import plan

    result = plan.of_recipe(config, topology)
    print(json.dumps(result, indent=2) if as_json else plan.describe(result))
    return 0


def _train(command: argparse.Namespace, config: Mapping[str, Any]) -> int:
    import jax

    from eca_jax.training.runtime import distributed, supervise

    try:
        with distributed.ending_together():
            distributed.initialize(command.coordinator, command.num_processes, command.process_id)
            from eca_jax.tasks.classification import Classification
            from eca_jax.tasks.task import create_task
            from eca_jax.training import loop

            if command.eval_only:
                step, words, _ = loop.evaluate_best(config, command.workdir)
                if jax.process_index() == 0:
                    print(f"step {step}: {words}")
                return supervise.DONE
            task = create_task(config)
            if isinstance(task, Classification) and jax.process_index() == 0:
                print("\n".join(task.found(config["num_classes"])), flush=True)
            best = loop.train(config, command.workdir, task)
            if best is None:
                return supervise.RESUME
            reported = config["report"] and isinstance(task, Classification) and _report(config, command.workdir, task)
            if jax.process_index() == 0:
                print(_closing_words(config, command.workdir, best, reported), flush=True)
            return supervise.DONE
    except Exception as error:
        code, message = distributed.verdict(error)
        print(f"error: {message}", file=sys.stderr)
        return code


def _report(config: Mapping[str, Any], workdir: str, task: "Classification") -> bool:
    """Writes WORKDIR/report. The training is done and saved: what hinders the report is said and is no failure."""
    from eca_jax.analysis.report import report_of_run

    try:
        report_of_run(workdir, task, config["batch_size"])
    except (ValueError, OSError) as error:
        print(f"no report: {error}", file=sys.stderr)
        return False
    return True


def _closing_words(config: Mapping[str, Any], workdir: str, best: Mapping[str, Any], reported: bool) -> str:
    """Where the results lie, and commands for what people do next, which work as they stand."""
    here, path = Path.cwd(), absolute(workdir)
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    where = shlex.quote(str(shown))
    python = "python" if shutil.which("python") == sys.executable else os.path.relpath(sys.executable)
    python = python if len(python) <= len(sys.executable) else sys.executable
    lines = [
        f"  checkpoint   {shown}/checkpoints/{best['step']}",
        f"  curves       {shown}/curves.png",
        *([f"  report       {shown}/report/index.html"] if reported else []),
        f"  TensorBoard  {Path(python).parent / 'tensorboard' if '/' in python else 'tensorboard'} "
        f"--logdir {where}/tensorboard",
    ]
    if config["task"] == "classification":  # which these two commands are for
        data = f"--data {shlex.quote(config['dataset'])}"
        data += f" --data_dir {shlex.quote(config['data_dir'])}" if config["data_dir"] else ""
        lines += [
            "next:",
            f"  {python} -m eca_jax evaluate --weights {where} {data}",
            f"  {python} -m eca_jax predict --weights {where} IMAGE...",
        ]
    return "\n".join(lines)
