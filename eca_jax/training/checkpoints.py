"""Checkpoints: the one module that knows Orbax.

A workdir holds `checkpoints/STEP/{variables,ema,optimizer,progress}`, a weights directory holds `variables`
alone; both have a `config.json` beside them that says which model the weights belong to. Arrays are compared
with what the model expects, name by name, before a byte of them is read: a restore is complete or an error.
"""

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from eca_jax.files import absolute, reason, write_json, writing
from eca_jax.training.metrics import best_evaluation, read_metrics
from eca_jax.training.program import model_overrides, plain
from eca_jax.training.state import TrainState

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"

# Orbax tells absl's log what is expected here (items without metadata of their own, a save that waits), and what it
# raises anyway.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


def flat_shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """{"params/conv1/kernel": ((7, 7, 3, 64), "float32"), ...} for a tree of anything with shape and dtype."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
    }


def check_tree(found: Any, expected: Any, where: str | os.PathLike) -> None:
    """ValueError, in one line, unless two trees have the same names, shapes and dtypes."""
    have, want = flat_shapes(found), flat_shapes(expected)
    differences = [
        f"{name} is {_describe(have.get(name))}, this model needs {_describe(want.get(name))}"
        for name in [*want, *(set(have) - set(want))]
        if have.get(name) != want.get(name)
    ]
    if differences:
        more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
        raise ValueError(f"{where} holds another model: {differences[0]}{more}")


def _describe(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if entry is None else f"{entry[1]}{list(entry[0])}"


def _optimizer_tree(state: Any) -> dict[str, Any]:
    """Step and optimizer state by name, free of optax's own container types."""
    leaves = jax.tree_util.tree_leaves_with_path({"step": state.step, "opt_state": state.opt_state})
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _items(state: TrainState) -> dict[str, Any]:
    items = {"variables": state.variables, "optimizer": _optimizer_tree(state)}
    return items | ({"ema": state.ema} if state.ema is not None else {})


def claim_workdir(
    workdir: str | os.PathLike, config: Mapping[str, Any], class_names: Sequence[str] | None = None
) -> None:
    """Makes `workdir` the run of `config` and writes its config.json, which `eca_jax.load` reads.

    The names of the data set's classes go with it, for predictions.

    Raises:
      ValueError: the checkpoints in it are of a run whose steps or weights this config cannot go on from.
      OSError: nothing can be written there.
    """
    path = absolute(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"workdir {path} is a file")
    config = json.loads(json.dumps(plain(config)))
    if checkpoint_steps(path) and (path / CONFIG_FILE).exists():
        before = json.loads((path / CONFIG_FILE).read_text())["config"]
        for key in ("model", "model_overrides", "num_classes", "dataset", "batch_size"):
            if before.get(key) != config[key]:
                raise ValueError(
                    f"{path} belongs to another run: {key} is {before.get(key)!r} there and {config[key]!r} here; "
                    "choose another workdir"
                )
    if jax.process_index() == 0:
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        named = {} if class_names is None else {"class_names": list(class_names)}
        write_json(path / CONFIG_FILE, describe_model(config) | {"config": config} | named)


def describe_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """What rebuilds a config's model and prepares images for it: the content of a workdir's config.json."""
    return {
        "model": config["model"],
        "num_classes": config["num_classes"],
        "overrides": model_overrides(config),
        "preprocessing": {
            "image_size": config["image_size"],
            "crop_pct": config["crop_pct"],
            "interpolation": config["interpolation"],
            "mean": list(config["mean"]),
            "std": list(config["std"]),
        },
    }


class Checkpoints:
    """The checkpoints of one run: asynchronous saves; the last `keep` of them and the best stay on disk."""

    def __init__(self, workdir: str | os.PathLike, keep: int = 3):
        self._workdir = absolute(workdir)
        self._keep = keep
        # Orbax writes under a temporary name and renames; leftovers of a kill are removed here.
        options = ocp.CheckpointManagerOptions(max_to_keep=None, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(
            self._workdir / CHECKPOINTS,
            options=options,
            item_names=("variables", "optimizer", "ema", "progress"),
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: Mapping[str, Any], *, best_step: int | None) -> None:
        """Starts writing `state` and a JSON-able `progress`; returns once the arrays are copied to the host.

        All but the newest `keep` checkpoints and `best_step` are removed.

        Raises:
          OSError: this checkpoint or the one before it could not be written.
        """
        step = int(state.step)
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items, progress=ocp.args.JsonSave(dict(progress))))
            for old in sorted(self._manager.all_steps())[: -self._keep]:
                if old != best_step:
                    self._manager.delete(old)

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state saved at `step` and its progress, placed as the abstract `state` (shapes, shardings) says.

        Raises:
          ValueError: the checkpoint is damaged, or is of another model or optimizer; says which.
        """
        directory = self._workdir / CHECKPOINTS / str(step)
        items = _items(state)
        for name, tree in items.items():
            check_tree(_stored_shapes(directory / name), tree, directory)
        restore = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**restore, progress=ocp.args.JsonRestore()))
        except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
            raise _damaged(directory, error) from error
        treedef = jax.tree_util.tree_structure({"step": state.step, "opt_state": state.opt_state})
        leaves = [restored["optimizer"][name] for name in _optimizer_tree(state)]
        optimizer = jax.tree_util.tree_unflatten(treedef, leaves)
        variables = restored["variables"]
        return (
            state.replace(
                step=optimizer["step"],
                params=variables["params"],
                batch_stats=variables.get("batch_stats", {}),
                opt_state=optimizer["opt_state"],
                ema=restored["ema"] if state.ema is not None else None,
            ),
            restored["progress"],
        )

    def wait(self) -> None:
        """Returns when everything saved is on disk; OSError if it could not be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        last = max(checkpoint_steps(self._workdir), default=None)
        kept = "no checkpoint was saved before" if last is None else f"the checkpoint of step {last} is good"
        return writing(self._workdir / CHECKPOINTS, kept)

    def close(self) -> None:
        self._manager.close()


def best_step(workdir: str | os.PathLike) -> int | None:
    """The step of the best validation top-1 among a workdir's checkpoints; the newest before any evaluation."""
    steps = checkpoint_steps(workdir)
    best = best_evaluation(line for line in read_metrics(workdir) if line["step"] in steps)
    return best["step"] if best else max(steps, default=None)


def checkpoint_steps(workdir: str | os.PathLike) -> list[int]:
    """Steps of a workdir's complete checkpoints, ascending; those a kill left half-written do not count."""
    return sorted(ocp.utils.checkpoint_steps(absolute(workdir) / CHECKPOINTS))


def save_variables(path: str | os.PathLike, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Writes a weights directory: `variables` and a config.json of `meta`.

    Args:
      path: a directory to make; an older weights directory there is replaced once the new one is complete.
      variables: {"params": ..., "batch_stats": ...} of arrays.
      meta: JSON-able; "model", "num_classes" and "overrides" are what `eca_jax.load` builds the model from.
    """
    path = absolute(path)
    if path.exists() and not (path.is_dir() and (path / CONFIG_FILE).exists() and (path / "variables").exists()):
        raise ValueError(f"{path} exists and is not a weights directory; choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / "variables", jax.tree.map(np.asarray, dict(variables)))
        write_json(temporary / CONFIG_FILE, meta)
        if path.exists():
            path.rmtree()
        temporary.rename(path)
    finally:
        temporary.rmtree(missing_ok=True)


def load_variables(
    path: str | os.PathLike, step: int | str | None = None, ema: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the weights of a workdir or of a weights directory.

    Args:
      path: a workdir of `train.py`, or a directory written by `save_variables`.
      step: of a workdir: a step, or "best" (None means the same): that of the highest validation top-1.
      ema: take the moving average of the weights where the run kept one.

    Returns:
      variables ({"params": ..., "batch_stats": ...} of numpy arrays) and the content of config.json, with the
      "step" the weights are from where `path` is a workdir.

    Raises:
      FileNotFoundError: no such directory, or no checkpoint in it.
      ValueError: damaged files, or no checkpoint at `step`.
    """
    path = absolute(path)
    if not (path / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{path} is neither a workdir nor a weights directory: it has no {CONFIG_FILE}")
    try:
        meta = json.loads((path / CONFIG_FILE).read_text())
    except ValueError as error:
        raise _damaged(path / CONFIG_FILE, error) from error
    if (path / "variables").is_dir():
        return _read(path / "variables"), meta
    steps = checkpoint_steps(path)
    if not steps:
        raise FileNotFoundError(f"{path} holds no complete checkpoint yet")
    if step in (None, "best"):
        step = best_step(path)
    if step not in steps:
        raise ValueError(f"{path} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    directory = path / CHECKPOINTS / str(step)
    name = "ema" if ema and (directory / "ema").is_dir() else "variables"
    return _read(directory / name), {**meta, "step": step}


def load_optimizer(workdir: str | os.PathLike, step: int) -> dict[str, np.ndarray]:
    """The optimizer's state at a step by name: "opt_state.1.trace.conv1.kernel" for SGD's momentum, ...

    Raises:
      ValueError: damaged files.
    """
    return _read(absolute(workdir) / CHECKPOINTS / str(step) / "optimizer")


def _stored_shapes(directory: epath.Path) -> Any:
    """The tree stored in an Orbax directory, with shape and dtype at each leaf, from its metadata alone."""
    try:
        return dict(ocp.StandardCheckpointer().metadata(directory).item_metadata.tree)
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        raise _damaged(directory, error) from error


def _read(directory: epath.Path) -> dict[str, Any]:
    shapes = _stored_shapes(directory)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    try:
        return ocp.PyTreeCheckpointer().restore(directory, restore_args=as_numpy)
    except Exception as error:
        raise _damaged(directory, error) from error


def _damaged(where: epath.Path, error: BaseException) -> ValueError:
    return ValueError(f"{where} is damaged ({reason(error)}); remove it to go on from an older checkpoint")
