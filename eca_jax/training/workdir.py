"""A workdir belongs to one run: what may differ when that run goes on, and what may not."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from eca_jax.config import default_config, differences, plain
from eca_jax.files import absolute, write_json, writing
from eca_jax.weights.card import CONFIG_FILE, Card
from eca_jax.weights.store import WEIGHTS_FILE, checkpoint_steps, read_config

# What a run may go on with in another form: neither its steps nor its weights so far depend on it.
FREE = {
    "checkpoint_every_steps",
    "compilation_cache",
    "data_cache",
    "data_cache_gb",
    "data_dir",
    "eval_every_epochs",
    "init_from",
    "keep_checkpoints",
    "log_every_steps",
    "mlflow_experiment",
    "num_epochs",
    "patience",
    "profile_steps",
    "report",
    "wandb_project",
}


def claim_workdir(
    workdir: str | os.PathLike, config: Mapping[str, Any], card: Card, train_examples: int | None = None
) -> list[str]:
    """Makes `workdir` the run of `config` and writes its config.json, which `eca_jax.load` reads.

    Args:
      card: what its weights will be of.
      train_examples: of the data, to know them again.

    Returns:
      what differs from the recipe that the run was started with and may, a line each.

    Raises:
      ValueError: the checkpoints in it are of a run that this recipe cannot go on with, or the recipe holds what no
        file can.
      OSError: nothing can be written there.
    """
    path = absolute(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"workdir {path} is a file")
    if (path / WEIGHTS_FILE).exists():
        raise ValueError(f"{path} is a weights directory: name it as init_from, and choose another workdir")
    content = json.loads(json.dumps(card.to_json() | {"config": plain(config), "train_examples": train_examples}))
    changed = []
    if (path / CONFIG_FILE).exists() and checkpoint_steps(path):
        changed = _check(path, read_config(path), content)
    if jax.process_index() == 0:
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        write_json(path / CONFIG_FILE, content)
    return changed


def _check(path: os.PathLike, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences that are allowed; ValueError for the first that is not.

    A key that the workdir is older than had its default there: with that a run does what it did before there was one.
    """
    other = f"{path} belongs to another run"
    if "config" not in before:
        raise ValueError(f"{other}: its {CONFIG_FILE} holds no recipe; choose another workdir")
    defaults = json.loads(json.dumps(plain(default_config())))
    recipe, added = _completed(before["config"], now["config"], defaults)
    found = differences(recipe, now["config"])
    for key, (old, new) in found.items():
        if key == "num_classes" and None in (old, new):
            continue  # the data's, which are compared by their names
        if key not in FREE:
            raise ValueError(f"{other}: {key} is {old!r} there and {new!r} here; choose another workdir")
    check_classes(path, before.get("class_names"), now.get("class_names"))
    count, counted = now["train_examples"], before.get("train_examples")
    if counted is not None and count != counted:
        raise ValueError(
            f"{other}: the data had {counted} training examples there and {count} here; choose another workdir"
        )
    lines = [f"{key} was {old!r} and is {new!r} now" for key, (old, new) in found.items() if key in FREE]
    return lines + ([f"it was begun before there was {', '.join(added)}: at the default"] if added else [])


def check_classes(path: os.PathLike, before: Sequence[str] | None, now: Sequence[str] | None) -> None:
    """ValueError where the classes of the run in `path` are not those of the data at hand; names some of both."""
    there, here = list(before or ()), list(now or ())
    if there != here:
        pairs = enumerate(zip(there, here, strict=False))
        first = next((i for i, (old, new) in pairs if old != new), max(min(len(there), len(here)) - 1, 0))
        raise ValueError(
            f"{path} belongs to another run: its classes are {_some(there, first)}, here {_some(here, first)}"
        )


def _some(names: list[str], first: int) -> str:
    """Of names the one at `first` and three that follow, in words."""
    shown = names[first : first + 4]
    return ", ".join([*["..."] * (first > 0), *shown, *["..."] * (len(names) > first + 4)])


def _completed(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """A recipe with the default of every key that only today's has, and the paths of those keys."""
    whole, added = dict(before), []
    for key in now:
        old, new, default = before.get(key), now[key], defaults.get(key)
        if key not in before and key in defaults:
            whole[key] = default
            added.append(key)
        elif isinstance(old, Mapping) and isinstance(new, Mapping) and isinstance(default, Mapping):
            whole[key], inner = _completed(old, new, default)
            added += [f"{key}.{name}" for name in inner]
    return whole, added
