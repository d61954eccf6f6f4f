"""Evaluating weights on a whole split, for any task."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from eca_jax import kernels, sharding
from eca_jax.data import prefetch_to_device
from eca_jax.tasks.task import Task, Variables
from eca_jax.training.runtime.interrupt import Interrupt


def evaluate(
    task: Task,
    outputs: Callable[..., Mapping[str, jax.Array]],
    variables: Variables,
    mesh: Mesh,
    *,
    split: str = "validation",
    interrupt: Interrupt | None = None,
) -> dict[str, Any] | None:
    """The task's metrics over a whole split, every example once, over all processes; None if interrupted.

    Args:
      outputs: jitted (variables, batch) -> what the task's meter needs, see `eca_jax.training.program.make_outputs`.
      variables: on every device of `mesh`.
    """
    meter, previous = task.meter(), None

    def add(results: Mapping[str, jax.Array]) -> None:
        meter.add({name: sharding.own_rows(array) for name, array in results.items()})

    for batch in prefetch_to_device(task.eval_batches(split, sharding.own_shard()), sharding.split(mesh)):
        results = outputs(variables, batch)
        if previous is not None:  # read one behind, while the device works on the next
            add(previous)
        previous = results
        if interrupt is not None and interrupt.now():
            return None
    if previous is not None:
        add(previous)
    return meter.result()


def evaluate_weights(task: Task, variables: Variables, batch_size: int) -> dict[str, Any]:
    """`evaluate` of given weights over all devices, with a program of its own.

    Args:
      batch_size: of the task, over all devices.

    Raises:
      ValueError: `batch_size` does not divide over the devices, or the data cannot be used; one line.
    """
    mesh = sharding.data_mesh()
    sharding.check_divides(batch_size, mesh)
    placed = jax.device_put(variables, sharding.replicated(mesh))
    metrics = evaluate(task, make_outputs(task, mesh), placed, mesh)
    assert metrics is not None  # nothing interrupts it
    return metrics


def make_outputs(task: Task, mesh: Mesh) -> kernels.Program:
    """`task.outputs`, jitted: weights on every device of the mesh, batches and results split over them."""
    split = sharding.split(mesh)
    return kernels.jit(task.outputs, rows=1, in_shardings=(sharding.replicated(mesh), split), out_shardings=split)
