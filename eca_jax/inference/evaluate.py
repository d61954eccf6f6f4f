"""Accuracy of given weights on a validation split, over all devices."""

from typing import Any

import jax
from flax import linen as nn

from eca_jax import sharding
from eca_jax.data import Source
from eca_jax.models import Preprocessing
from eca_jax.training.evaluate import evaluate_variables
from eca_jax.training.step import make_eval_step


def evaluate(
    model: nn.Module, variables: dict[str, Any], source: Source, how: Preprocessing, *, batch_size: int
) -> dict[str, Any]:
    """Means of "loss", "top1" and "top5" over the "count" images of the validation split, every one once.

    Raises:
      ValueError: `batch_size` does not divide over the devices.
    """
    mesh = sharding.data_mesh()
    sharding.check_divides(batch_size, mesh)
    split = sharding.split(mesh)
    step = jax.jit(make_eval_step(model, mean=how.mean, std=how.std), in_shardings=(None, split))
    return evaluate_variables(
        step,
        jax.device_put(variables, sharding.replicated(mesh)),
        source,
        sharding=split,
        batch_size=batch_size,
        image_size=how.image_size,
        resize_size=how.resize_size,
        interpolation=how.interpolation,
    )
