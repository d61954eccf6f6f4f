"""Evaluating weights on a whole split."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Sharding

from eca_jax.data import eval_batches, prefetch_to_device
from eca_jax.data.sources import Source
from eca_jax.training.metrics import Sums
from eca_jax.training.runtime.interrupt import Interrupt
from eca_jax.training.state import Variables


def evaluate_variables(
    eval_step: Callable[..., dict[str, jax.Array]],
    variables: Variables,
    source: Source,
    *,
    sharding: Sharding,
    batch_size: int,
    image_size: int,
    resize_size: int,
    interpolation: str,
    interrupt: Interrupt | None = None,
) -> dict[str, Any] | None:
    """Means of loss, top-1 and top-5 over the whole validation split, every example once; None if interrupted.

    Args:
      eval_step: jitted (variables, batch) -> sums, see `eca_jax.training.step.make_eval_step`.
      sharding: of the batches.
      batch_size: over all devices of all processes.
      image_size, resize_size, interpolation: see `eca_jax.models.Preprocessing`.
    """
    batches = eval_batches(
        source,
        "validation",
        batch_size=batch_size,
        image_size=image_size,
        resize_size=resize_size,
        interpolation=interpolation,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    total = Sums()
    previous = None
    for batch in prefetch_to_device(batches, sharding):
        sums = eval_step(variables, batch)
        if previous is not None:  # read one behind, while the device works on the next
            total.add(jax.device_get(previous))
        previous = sums
        if interrupt is not None and interrupt.now():
            return None
    if previous is not None:
        total.add(jax.device_get(previous))
    return total.means()


def describe(split: str, means: Mapping[str, Any]) -> str:
    """validation top-1 98.61%, top-5 100.00%, loss 0.0512 on 360 images."""
    name = split.replace("_ema", " (averaged weights)")
    return (
        f"{name} top-1 {means['top1']:.2%}, top-5 {means['top5']:.2%}, "
        f"loss {means['loss']:.4f} on {means['count']} images"
    )
