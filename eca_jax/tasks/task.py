"""What a task is: all that training, evaluation, checkpoints and the dry run know of what is trained.

A task is an object with the members of `Task`; it need not inherit from it. A recipe names it: `config.task` is
"classification", "detection" or "MODULE:CLASS" of one's own, whose `from_config` makes the task of a recipe.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from eca_jax.config import import_object
from eca_jax.models.network import ROW
from eca_jax.sharding import Shard
from eca_jax.weights.card import Card

# {"params": ..., "batch_stats": ..., ...}: the collections of a Flax module.
Variables = dict[str, Any]
Batch = Mapping[str, jax.Array]
HostBatch = Mapping[str, np.ndarray]
# Sums over the examples of a batch that count, float32 scalars: "loss", "count" and whatever else a task keeps.
Sums = dict[str, jax.Array]
# In a batch of training: the epoch that the step falls into, int32 scalar, from 0.
EPOCH = "epoch"

__all__ = ["EPOCH", "ROW", "TASKS", "Batch", "HostBatch", "Meter", "Sums", "Task", "Variables", "create_task"]

TASKS = {
    "classification": "eca_jax.tasks.classification:Classification",
    "detection": "eca_jax.tasks.detection:Detection",
}


class Meter(Protocol):
    """Gathers what a task puts out over a split and says how good it is."""

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Takes this process's rows of one batch of `Task.outputs`."""

    def result(self) -> dict[str, float]:
        """The metrics of what was added in all processes, which ask together; "loss" and "count" are among them."""


class Task(Protocol):
    """See the module."""

    @property
    def name(self) -> str:
        """Of what is trained, for people."""

    @property
    def best(self) -> str:
        """The metric of `meter` that chooses the best checkpoint; the higher the better."""

    @property
    def batch(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Abstract arrays of a global batch, examples first."""

    @property
    def other_batches(self) -> Sequence[Mapping[str, jax.ShapeDtypeStruct]]:
        """Such arrays of the other shapes that batches of training have, each a program of its own; mostly none."""

    @property
    def nominal_examples(self) -> int | None:
        """Of the training split where that is known without the data, for plans; or None."""

    @property
    def card(self) -> Card:
        """What lies beside the weights. Opens the data."""

    @property
    def train_examples(self) -> int:
        """Examples of the training split. Opens the data."""

    def init(self, key: jax.Array) -> Variables:
        """The variables before the first step; pure, jitted by training."""

    def warm_start(self, fresh: Variables) -> tuple[Variables, str] | None:
        """Variables in place of the `fresh` ones and words about them, where the recipe names weights to start from.

        `fresh` are abstract before anything is compiled; those that are kept come back as they were given.
        """

    def loss(self, variables: Variables, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Variables, Sums]]:
        """The scalar to minimise; the collections that changed, and sums; pure, jitted by training.

        Beside what the data bring, the batch has `EPOCH`. Where a step takes its batch in parts, a part has under `ROW`
        each example's row in the batch, int32 [N]: what is drawn by it is the same in whatever parts.
        """

    def outputs(self, variables: Variables, batch: Batch) -> Mapping[str, jax.Array]:
        """What `meter` needs of a batch at inference, examples first and independent of each other; pure, jitted."""

    def train_batches(self, start_step: int, shard: Shard) -> Iterator[HostBatch]:
        """Endless batches from a step on, this process's rows of each; a pure function of the step."""

    def eval_batches(self, split: str, shard: Shard) -> Iterator[HostBatch]:
        """Every example of a split once over all processes, in as many batches for each; what is missing is masked."""

    def meter(self) -> Meter:
        """A new one."""

    def describe(self, metrics: Mapping[str, Any]) -> str:
        """The metrics in a few words: "top-1 98.61%, loss 0.0512"."""


def create_task(config: Mapping[str, Any]) -> Task:
    """The task of a recipe (see `eca_jax.default_config` for its keys). Opens no data.

    Raises:
      ValueError: there is no such task, or the recipe asks for what does not exist or fit together; one line.
    """
    name = config["task"]
    if name not in TASKS and ":" not in name:
        raise ValueError(f"unknown task {name!r}: there is {', '.join(TASKS)}, or MODULE:CLASS of one's own")
    return import_object(TASKS.get(name, name)).from_config(config)
