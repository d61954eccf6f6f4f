"""From a config and a mesh to the compiled-to-be program: everything of a run that needs neither data nor disk.

The training loop, the benchmarks and the dry run for a TPU slice all build the same program here; the last two on
devices that may not exist, so nothing in this file touches one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from eca_jax import sharding
from eca_jax.models import create_model
from eca_jax.training.optimizer import Schedule, make_optimizer, make_schedule
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_eval_step, make_train_step


@dataclass(frozen=True)
class Program:
    """A run's computations.

    Attributes:
      model, optimizer, schedule: what the config names.
      mesh: one axis, "data": batches are split over it, the state is on every device.
      state, batch: abstract arguments (shape, dtype, sharding) of `train_step`.
      train_step: jitted (state, batch) -> (state, sums); takes over the buffers of the state it is given.
      eval_step: jitted (variables, batch) -> sums.
      init: jitted () -> the state before the first step.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: Schedule
    mesh: Mesh
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    eval_step: Callable[..., dict[str, jax.Array]]
    init: Callable[[], TrainState]


def plain(config: Any) -> Any:
    """A config (ConfigDict, or any nesting of mappings) as nested dicts."""
    return {key: plain(config[key]) for key in config} if hasattr(config, "keys") else config


def model_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model's module that a config sets; None leaves a field to the model."""
    return {key: value for key, value in plain(config["model_overrides"]).items() if value is not None}


def resize_size(config: Mapping[str, Any]) -> int:
    """Pixels of the short side that evaluation resizes to before its centre crop: 256 for 224."""
    return math.floor(config["image_size"] / config["crop_pct"])


def model_from(config: Mapping[str, Any]) -> nn.Module:
    """The model that a config names.

    Raises:
      ValueError: unknown model, override or dtype; BatchNorm groups that do not divide the batch.
    """
    if config["dtype"] not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be 'float32' or 'bfloat16', not {config['dtype']!r}")
    overrides = model_overrides(config)
    group, examples = config["bn_group_size"], config["batch_size"]
    if group and group < examples:  # a batch that is no larger than a group is one group
        if examples % group:
            raise ValueError(f"bn_group_size={group} does not divide batch_size={examples}")
        overrides["bn_group_size"] = group
    return create_model(
        config["model"], num_classes=config["num_classes"], dtype=jnp.dtype(config["dtype"]), **overrides
    )


def build(config: Mapping[str, Any], mesh: Mesh, steps_per_epoch: int, model: nn.Module | None = None) -> Program:
    """The program of a config (see `configs/default.py` for its keys) on a mesh with the axis "data".

    `model` takes the place of the one that the config names.

    Raises:
      ValueError: what the config asks for does not exist or does not fit together; one line.
    """
    sharding.check_divides(config["batch_size"], mesh)
    model = model or model_from(config)
    schedule = make_schedule(
        learning_rate=config["learning_rate"],
        num_epochs=config["num_epochs"],
        steps_per_epoch=steps_per_epoch,
        **config["schedule"],
    )
    optimizer = make_optimizer(schedule, **config["optimizer"])
    if not len(config["mean"]) == len(config["std"]) == 3:
        raise ValueError("mean and std take three values, for red, green and blue")
    statistics = {"mean": tuple(config["mean"]), "std": tuple(config["std"])}
    train_step = make_train_step(
        model,
        optimizer,
        seed=config["seed"],
        label_smoothing=config["label_smoothing"],
        ema_decay=config["ema_decay"],
        **statistics,
    )
    eval_step = make_eval_step(model, **statistics)

    image_shape = (config["image_size"], config["image_size"], 3)

    def init() -> TrainState:
        variables = model.init(jax.random.key(config["seed"]), jnp.zeros((1, *image_shape)), train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        ema = {"params": params, "batch_stats": batch_stats} if config["ema_decay"] else None
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), ema)

    replicated, split = sharding.replicated(mesh), sharding.split(mesh)
    examples = config["batch_size"]
    return Program(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        mesh=mesh,
        state=jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated), jax.eval_shape(init)
        ),
        batch={
            "image": jax.ShapeDtypeStruct((examples, *image_shape), jnp.uint8, sharding=split),
            "label": jax.ShapeDtypeStruct((examples,), jnp.int32, sharding=split),
            "mask": jax.ShapeDtypeStruct((examples,), jnp.float32, sharding=split),
        },
        train_step=jax.jit(
            train_step,
            in_shardings=(replicated, split),
            out_shardings=(replicated, replicated),
            donate_argnums=0,
        ),
        eval_step=jax.jit(eval_step, in_shardings=(replicated, split), out_shardings=replicated),
        init=jax.jit(init, out_shardings=replicated),
    )
