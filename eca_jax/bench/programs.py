"""The programs that the benchmarks compile or run: the real training step, and images to logits."""

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from eca_jax.config import default_config
from eca_jax.models.inputs import Preprocessing, on_pixels
from eca_jax.tasks.classification import Classification
from eca_jax.training.program import Program, build
from eca_jax.weights.card import Card


def training(model: nn.Module, mesh: Mesh, batch_size: int, image_size: int) -> Program:
    """The program that `train` would run with the paper's SGD; `batch_size` counts all devices."""
    config = default_config()
    config.batch_size = batch_size
    preprocessing = dataclasses.replace(Preprocessing(), image_size=image_size)
    card = Card(type(model).__name__, {"num_classes": model.num_classes}, preprocessing)
    task = Classification(model, card, batch_size, _no_data)
    return build(task, config, mesh, steps_per_epoch=1000)


def _no_data() -> NoReturn:
    raise ValueError("a benchmark's task has no data")


def inference(model: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
    """(variables, uint8 images [N, H, W, 3]) -> float32 logits [N, classes]."""
    return on_pixels(model, Preprocessing())


def abstract_variables(model: nn.Module, image_size: int) -> Any:
    """Shapes and dtypes of the model's variables; nothing is computed."""
    image = jnp.zeros((1, image_size, image_size, 3), model.dtype)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
