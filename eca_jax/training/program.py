"""From a task, a recipe and a mesh to the compiled-to-be program: everything of a run that needs neither data nor disk.

The training loop, the benchmarks and the dry run for a TPU slice all build the same program here; the last two on
devices that may not exist, so nothing in this file touches one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from eca_jax import kernels, sharding
from eca_jax.tasks.task import Task
from eca_jax.training.evaluate import make_outputs
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.schedules import Schedule, make_schedule
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_train_step


@dataclass(frozen=True)
class Program:
    """A run's computations.

    Attributes:
      task, optimizer, schedule: what the recipe names.
      mesh: one axis, "data": batches are split over it, the state is on every device.
      state, batch: abstract arguments (shape, dtype, sharding) of `train_step`.
      other_batches: the batches of other shapes that training has too.
      train_step: jitted (state, batch) -> (state, sums); takes over the buffers of the state it is given.
      outputs: jitted (variables, batch) -> what the task's meter needs, split over the devices.
      init: jitted () -> the state before the first step.
    """

    task: Task
    optimizer: optax.GradientTransformation
    schedule: Schedule
    mesh: Mesh
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    other_batches: tuple[dict[str, jax.ShapeDtypeStruct], ...]
    train_step: kernels.Program
    outputs: kernels.Program
    init: Callable[[], TrainState]


def build(task: Task, config: Mapping[str, Any], mesh: Mesh, steps_per_epoch: int) -> Program:
    """The program of a task and a recipe (see `eca_jax.default_config` for its keys) on a mesh with the axis "data".

    Raises:
      ValueError: what the recipe asks for does not exist or does not fit together; one line.
    """
    sharding.check_divides(config["batch_size"], mesh)
    schedule = make_schedule(
        learning_rate=config["learning_rate"],
        num_epochs=config["num_epochs"],
        steps_per_epoch=steps_per_epoch,
        seed=config["seed"],
        **config["schedule"],
    )
    optimizer = make_optimizer(schedule, **config["optimizer"])
    check_parts(config, mesh.size)
    train_step = make_train_step(
        task,
        optimizer,
        seed=config["seed"],
        ema_decay=config["ema_decay"],
        ema_warmup=config["ema_warmup"],
        microbatches=config["microbatches"],
        devices=mesh.size,
        steps_per_epoch=steps_per_epoch,
        frozen=tuple(config["optimizer"]["frozen"]),
    )

    def init() -> TrainState:
        collections = dict(task.init(jax.random.key(config["seed"])))
        params = collections.pop("params")
        ema = {"params": params, **collections} if config["ema_decay"] else None
        return TrainState(jnp.zeros((), jnp.int32), params, collections, optimizer.init(params), ema)

    replicated, split = sharding.replicated(mesh), sharding.split(mesh)
    return Program(
        task=task,
        optimizer=optimizer,
        schedule=schedule,
        mesh=mesh,
        state=sharding.placed(jax.eval_shape(init), replicated),
        batch=sharding.placed(dict(task.batch), split),
        other_batches=tuple(sharding.placed(dict(batch), split) for batch in task.other_batches),
        train_step=kernels.jit(
            train_step,
            in_shardings=(replicated, split),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        ),
        outputs=make_outputs(task, mesh),
        init=kernels.jit(init, out_shardings=replicated),
    )


def check_parts(config: Mapping[str, Any], devices: int) -> None:
    """ValueError unless the recipe's batch divides into `microbatches` parts that keep its groups whole."""
    parts, batch, group = config["microbatches"], config["batch_size"], config["bn_group_size"]
    if parts < 1:
        raise ValueError(f"microbatches must be at least 1, not {parts}")
    if parts == 1:
        return
    if not group:
        raise ValueError("microbatches needs a bn_group_size: statistics of the whole batch cannot be taken in parts")
    if batch % (parts * devices) or batch // (parts * devices) % group:
        raise ValueError(
            f"batch_size={batch} on {devices} devices does not divide into microbatches={parts} parts of whole groups "
            f"of bn_group_size={group}"
        )
