"""The checkpoints of one run: how a state becomes trees of arrays and back, and which of them stay."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from eca_jax.training.state import TrainState
from eca_jax.weights.store import CheckpointStore


def _optimizer_tree(state: TrainState) -> dict[str, Any]:
    """Step and optimizer state by name, free of optax's own container types."""
    leaves = jax.tree_util.tree_leaves_with_path({"step": state.step, "opt_state": state.opt_state})
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _items(state: TrainState) -> dict[str, Any]:
    items = {"variables": state.variables, "optimizer": _optimizer_tree(state)}
    return items | ({"ema": state.ema} if state.ema is not None else {})


class Checkpoints:
    """Asynchronous saves; the last `keep` of them and the best stay on disk."""

    def __init__(self, workdir: str | os.PathLike, keep: int = 3):
        self._keep = keep
        self._store = CheckpointStore(workdir)

    def latest_step(self) -> int | None:
        return max(self._store.steps(), default=None)

    def save(self, state: TrainState, progress: Mapping[str, Any], *, best_step: int | None) -> None:
        """Starts writing `state` and a JSON-able `progress`; returns once the arrays are copied to the host.

        All but the newest `keep` checkpoints and `best_step` are removed.

        Raises:
          OSError: this checkpoint or the one before it could not be written.
        """
        self._store.save(int(state.step), _items(state), progress)
        for old in self._store.steps()[: -self._keep]:
            if old != best_step:
                self._store.delete(old)

    def record(self, step: int, lines: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes with the checkpoint of `step` how it was judged: {split: its line of metrics}; process 0 does.

        Raises:
          OSError: it could not be written, or the checkpoint itself could not.
        """
        self.wait()
        if jax.process_index() == 0:
            self._store.record(step, lines)

    def restore(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state saved at `step` and its progress, placed as the abstract `state` (shapes, shardings) says.

        Raises:
          ValueError: the checkpoint is damaged, or is of another model or optimizer; says which.
        """
        items, progress = self._store.restore(step, _items(state))
        treedef = jax.tree_util.tree_structure({"step": state.step, "opt_state": state.opt_state})
        leaves = [items["optimizer"][name] for name in _optimizer_tree(state)]
        optimizer = jax.tree_util.tree_unflatten(treedef, leaves)
        collections = dict(items["variables"])
        restored = TrainState(
            step=optimizer["step"],
            params=collections.pop("params"),
            collections=collections,
            opt_state=optimizer["opt_state"],
            ema=items.get("ema"),
        )
        return restored, progress

    def wait(self) -> None:
        """Returns when everything saved is on disk; OSError if it could not be written."""
        self._store.wait()

    def close(self) -> None:
        self._store.close()
