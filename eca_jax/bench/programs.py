"""The programs that the benchmarks compile or run: the real training step, and images to logits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from eca_jax.models.inputs import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, on_pixels
from eca_jax.training.program import Program, build


def training(model: nn.Module, mesh: Mesh, batch_size: int, image_size: int) -> Program:
    """The program that `train.py` would run with the paper's SGD; `batch_size` counts all devices."""
    config = {
        "batch_size": batch_size,
        "image_size": image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "seed": 0,
        "learning_rate": 0.1,
        "num_epochs": 100,
        "schedule": {"name": "step"},
        "optimizer": {"momentum": 0.9, "weight_decay": 1e-4},
        "label_smoothing": 0.0,
        "ema_decay": 0.0,
    }
    return build(config, mesh, steps_per_epoch=1000, model=model)


def inference(model: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
    """(variables, uint8 images [N, H, W, 3]) -> float32 logits [N, classes]."""
    return on_pixels(model, Preprocessing())


def abstract_variables(model: nn.Module, image_size: int) -> Any:
    """Shapes and dtypes of the model's variables; nothing is computed."""
    image = jnp.zeros((1, image_size, image_size, 3), model.dtype)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
