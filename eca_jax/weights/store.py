"""Arrays on disk: weights directories, and the checkpoints of training workdirs. The one module that knows Orbax.

A weights directory holds `config.json` (see `eca_jax.weights.card`) and `weights.safetensors`, its variables by names
such as "params/conv1/kernel". A workdir holds `config.json`, with the recipe as "config", and
`checkpoints/STEP/{variables,ema,optimizer,progress}`, each with an `evaluation.json` once it is evaluated. Arrays are
compared with what is expected, name by name, before a byte of them is read: a restore is complete or an error.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.files import absolute, reason, replacing, write_json, writing
from eca_jax.weights.card import CONFIG_FILE, Card

CHECKPOINTS = "checkpoints"
WEIGHTS_FILE = "weights.safetensors"
EVALUATION_FILE = "evaluation.json"


@functools.cache
def orbax() -> ModuleType:
    """Orbax, imported on the first call, since that takes seconds and a weights directory does not need it.

    Raises:
      ImportError: it is not installed.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(f"checkpoints need Orbax ({error}): pip install 'eca-jax[train]'") from error
    # It warns of what is expected here: items without metadata of their own, a save that waits for the one before.
    logging.getLogger("absl").addFilter(
        lambda record: record.levelno >= logging.ERROR or "orbax" not in record.pathname
    )
    # Where one array is damaged, the reads of the others end after Orbax has closed the event loop they report to.
    report = sys.unraisablehook
    sys.unraisablehook = lambda what: None if _abandoned(what) else report(what)
    return ocp


def _abandoned(what: Any) -> bool:
    """Whether what cannot be raised is of a read that nobody waits for any more; see `sys.unraisablehook`."""
    code = getattr(what.object, "cr_code", None)  # a coroutine's
    return str(what.exc_value) == "Event loop is closed" or (code is not None and "orbax" in code.co_filename)


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a directory holds.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of NumPy arrays.
      card: what they are of.
      content: all of config.json.
      step: of a workdir, the step they are from.
      averaged: they are the moving average that the run kept.
    """

    variables: dict[str, Any]
    card: Card
    content: Mapping[str, Any]
    step: int | None = None
    averaged: bool = False


def save_directory(
    path: str | os.PathLike, variables: Mapping[str, Any], card: Card, beside: Mapping[str, Any] | None = None
) -> None:
    """Writes a weights directory; an older one there is replaced once the new one is complete.

    Args:
      path: a directory to make.
      variables: {"params": ..., "batch_stats": ...} of arrays.
      beside: further entries of config.json.

    Raises:
      ValueError: there is something else at `path`, or the card holds what no file can.
      OSError: it cannot be written.
    """
    from safetensors.numpy import save

    path = absolute(path)
    if path.exists() and not (path.is_dir() and (path / CONFIG_FILE).exists() and (path / WEIGHTS_FILE).exists()):
        raise ValueError(f"{path} exists and is not a weights directory; choose another name")
    content = card.to_json() | dict(beside or {})
    arrays = {name: np.array(leaf, order="C") for name, leaf in flatten_dict(dict(variables), sep="/").items()}
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / WEIGHTS_FILE).write_bytes(save(arrays))
        write_json(temporary / CONFIG_FILE, content)


def read(path: str | os.PathLike, step: int | str | None = None, ema: bool = True) -> Stored:
    """Reads the weights of a workdir or of a weights directory.

    Args:
      path: a training workdir, or a directory written by `save_directory`.
      step: of a workdir: a step, or "best" (None means the same): that of the best evaluation.
      ema: take the moving average of the weights where the run kept one.

    Raises:
      FileNotFoundError: no such directory, or no checkpoint in it.
      ValueError: damaged files, or no checkpoint at `step`.
      ImportError: a workdir, and Orbax is not installed.
    """
    path = absolute(path)
    content = read_config(path)
    try:
        card = Card.from_json(content)
    except ValueError as error:
        raise damaged(path / CONFIG_FILE, error) from error
    if (path / WEIGHTS_FILE).is_file():
        if step is not None:
            raise ValueError(f"{path} is a weights directory: only a training workdir has steps to choose from")
        return Stored(_read_safetensors(path / WEIGHTS_FILE), card, content)
    steps = checkpoint_steps(path)
    if not steps:
        raise FileNotFoundError(f"{path} holds no complete checkpoint yet")
    chosen = best_step(path, card.best) if step in (None, "best") else step
    if chosen not in steps:
        raise ValueError(f"{path} has no checkpoint of step {chosen}; it has {', '.join(map(str, steps))}")
    directory = path / CHECKPOINTS / str(chosen)
    averaged = ema and (directory / "ema").is_dir()
    variables = _read_arrays(directory / ("ema" if averaged else "variables"))
    return Stored(variables, card, content, int(chosen), averaged)


def read_config(path: epath.Path) -> dict[str, Any]:
    """The content of a directory's config.json.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged.
    """
    if not (path / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{path} is neither a workdir nor a weights directory: it has no {CONFIG_FILE}")
    try:
        return json.loads((path / CONFIG_FILE).read_text())
    except ValueError as error:
        raise damaged(path / CONFIG_FILE, error) from error


def checkpoint_steps(workdir: str | os.PathLike) -> list[int]:
    """Steps of a workdir's complete checkpoints, ascending; those a kill left half-written do not count."""
    directory = absolute(workdir) / CHECKPOINTS
    return sorted(orbax().utils.checkpoint_steps(directory)) if directory.exists() else []


def evaluations(workdir: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """What was recorded with each checkpoint that is still there: {step: {split: its line of metrics}}.

    Raises:
      ValueError: a damaged record.
    """
    found = {}
    for step in checkpoint_steps(workdir):
        path = absolute(workdir) / CHECKPOINTS / str(step) / EVALUATION_FILE
        if path.exists():
            try:
                found[step] = json.loads(path.read_text())
            except ValueError as error:
                raise damaged(path, error) from error
    return found


def best_step(workdir: str | os.PathLike, metric: str) -> int | None:
    """The step of the highest `metric` among a workdir's checkpoints, of equals that of the lowest loss.

    The newest before any evaluation.
    """
    judged = {step: judging_line(lines) for step, lines in evaluations(workdir).items()}
    best = max(judged, key=lambda step: (judged[step][metric], -judged[step].get("loss", 0.0), -step), default=None)
    return max(checkpoint_steps(workdir), default=None) if best is None else best


def judging_line(lines: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The line that a checkpoint is judged by: the moving average's ("validation_ema") where there is one."""
    return lines.get("validation_ema") or lines["validation"]


def read_optimizer(workdir: str | os.PathLike, step: int) -> dict[str, np.ndarray]:
    """The optimizer's state at a step by name: "opt_state.1.trace.conv1.kernel" for SGD's momentum, ...

    Raises:
      ValueError: damaged files.
    """
    return _read_arrays(absolute(workdir) / CHECKPOINTS / str(step) / "optimizer")


def read_progress(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """What the run noted of itself at a step; "epoch" among it.

    Raises:
      ValueError: damaged files.
    """
    directory = absolute(workdir) / CHECKPOINTS / str(step)
    try:
        return orbax().JsonCheckpointHandler().restore(directory / "progress")
    except Exception as error:
        raise damaged(directory, error) from error


class CheckpointStore:
    """The checkpoints of one workdir: items, each a tree of arrays, saved together and asynchronously."""

    def __init__(self, workdir: str | os.PathLike):
        ocp = orbax()
        self._workdir = absolute(workdir)
        self._directory = self._workdir / CHECKPOINTS
        # Orbax writes under a temporary name and renames; leftovers of a kill are removed here.
        options = ocp.CheckpointManagerOptions(max_to_keep=None, cleanup_tmp_directories=True)
        names = ("variables", "optimizer", "ema", "progress")
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=names)

    def steps(self) -> list[int]:
        """Those on disk, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, items: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Starts writing; returns once the arrays are copied to the host.

        Raises:
          OSError: this checkpoint or the one before it could not be written.
        """
        args = orbax().args
        trees = {name: args.StandardSave(tree) for name, tree in items.items()}
        with self._writing():
            self._manager.save(step, args=args.Composite(**trees, progress=args.JsonSave(dict(progress))))

    def delete(self, step: int) -> None:
        """Removes a checkpoint. Raises OSError where it cannot be."""
        with self._writing():
            self._manager.delete(step)

    def restore(self, step: int, items: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The items saved at `step`, placed as the abstract `items` (shapes, shardings) say, and their progress.

        Raises:
          ValueError: the checkpoint is damaged, or holds other arrays; says which.
        """
        args, directory = orbax().args, self._directory / str(step)
        for name, tree in items.items():
            check_tree(_stored_shapes(directory / name), tree, directory)
        trees = {name: args.StandardRestore(tree) for name, tree in items.items()}
        try:
            restored = self._manager.restore(step, args=args.Composite(**trees, progress=args.JsonRestore()))
        except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
            raise damaged(directory, error) from error
        return {name: restored[name] for name in items}, restored["progress"]

    def record(self, step: int, lines: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes with the checkpoint of `step` how it was judged. Raises OSError where that cannot be written."""
        write_json(self._directory / str(step) / EVALUATION_FILE, lines)

    def wait(self) -> None:
        """Returns when everything saved is on disk; OSError if it could not be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        last = max(checkpoint_steps(self._workdir), default=None)
        kept = "no checkpoint was saved before" if last is None else f"the checkpoint of step {last} is good"
        return writing(self._directory, kept)


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


def damaged(where: str | os.PathLike, error: BaseException) -> ValueError:
    """The error to raise for files that cannot be read."""
    return ValueError(f"{where} is damaged ({reason(error)}); remove it to go on from an older checkpoint")


def _describe(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if entry is None else f"{entry[1]}{list(entry[0])}"


def _read_safetensors(path: epath.Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return unflatten_dict(load(path.read_bytes()), sep="/")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({reason(error)})") from None


def _stored_shapes(directory: epath.Path) -> Any:
    """The tree stored in an Orbax directory, with shape and dtype at each leaf, from its metadata alone."""
    try:
        return dict(orbax().StandardCheckpointer().metadata(directory).item_metadata.tree)
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        raise damaged(directory, error) from error


def _read_arrays(directory: epath.Path) -> dict[str, Any]:
    ocp, shapes = orbax(), _stored_shapes(directory)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    try:
        return ocp.PyTreeCheckpointer().restore(directory, restore_args=as_numpy)
    except Exception as error:
        raise damaged(directory, error) from error
