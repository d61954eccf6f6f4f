"""Learning rates over a run, as functions of the number of updates done so far."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# From a Python int or a traced int32 to the rate.
Schedule = Callable[[Any], Any]

NAMES = ("step", "exponential", "cosine", "polynomial")
FORMS = ("step", "epoch", "timm")


def make_schedule(
    *,
    name: str,
    learning_rate: float,
    num_epochs: int,
    steps_per_epoch: int,
    form: str = "step",
    warmup_epochs: float = 0,
    warmup_rate: float = 0.0,
    cooldown_epochs: float = 0,
    min_rate: float = 0.0,
    decay_epochs: float = 30,
    decay_rate: float = 0.1,
    power: float = 2.0,
) -> Schedule:
    """The learning rate as a function of the number of updates done so far (a Python int or a traced int32).

    "step" is constant inside an epoch, as in PyTorch: learning_rate * decay_rate ** (epoch // decay_epochs). The
    paper's ResNets divide by 10 every 30 epochs; its MobileNetV2 multiplies by 0.98 every epoch (decay_epochs=1).
    "exponential" is the same without the floor: learning_rate * decay_rate ** (epoch / decay_epochs).
    "cosine" falls from `learning_rate` to `min_rate` over the run, "polynomial" as (1 - progress) ** power.

    Args:
      form: of warm-up and curve.
        "step": the rate changes with each update, and the warm-up comes before the curve of "cosine" and "polynomial";
          it multiplies "step" and "exponential". At its first update it is one part of the full rate above
          `warmup_rate`, at its last the full rate.
        "epoch": the rate is constant within an epoch, and the warm-up comes before the curve; in epoch e it is
          warmup_rate + (learning_rate - warmup_rate) e / warmup_epochs: torchvision's LinearLR and CosineAnnealingLR
          one after the other, timm's schedulers with `warmup_prefix`.
        "timm": as "epoch", but the curve runs over the whole time and the warm-up overwrites its head: what timm does
          unless told otherwise, and what the published recipes of its weights were run with.
      warmup_epochs: of the linear growth from `warmup_rate` to the full rate.
      cooldown_epochs: at the end of the run, where the rate stays as the curve ended.
      min_rate: where the curve ends; the lowest rate of the others.
      decay_epochs, decay_rate: of "step" and "exponential".
      power: of "polynomial".

    Raises:
      ValueError: unknown name or form, or a warm-up or cool-down that leaves no time to train.
    """
    if name not in NAMES:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(NAMES)}")
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of a schedule: choose one of {', '.join(FORMS)}")
    if not 0 <= warmup_epochs < num_epochs - cooldown_epochs:
        raise ValueError(
            f"a warm-up of {warmup_epochs} epochs does not fit into {num_epochs}"
            + (f" with a cool-down of {cooldown_epochs}" if cooldown_epochs else "")
        )
    if cooldown_epochs < 0:
        raise ValueError(f"cooldown_epochs must not be negative, not {cooldown_epochs}")
    warmup_steps = warmup_epochs * steps_per_epoch
    curve_steps = (num_epochs - cooldown_epochs) * steps_per_epoch
    head = 0.0 if form == "timm" or name in ("step", "exponential") else warmup_steps  # where the curve starts
    prefixed = 0.0 if form != "epoch" else warmup_steps

    def curve(step: Any, xp: Any) -> Any:
        if name == "step":
            # A thousandth of an epoch, so that 12 // 2.4 is 5 in float32 too.
            done = ((step - prefixed if prefixed else step) // steps_per_epoch + 1e-3) // decay_epochs
            rate = learning_rate * xp.power(decay_rate, xp.asarray(done, "float32"))
        elif name == "exponential":
            done = xp.minimum(step, curve_steps) - prefixed
            rate = learning_rate * xp.power(decay_rate, done / (steps_per_epoch * decay_epochs))
        else:
            progress = xp.clip((step - head) / (curve_steps - head), 0.0, 1.0)
            left = 0.5 * (1.0 + xp.cos(np.pi * progress)) if name == "cosine" else (1.0 - progress) ** power
            return min_rate + (learning_rate - min_rate) * left
        return xp.maximum(rate, min_rate) if min_rate else rate

    def schedule(step: Any) -> Any:
        xp = jnp if isinstance(step, jax.Array) else np  # numpy on the host: a log line must not wait for the device
        if form == "step":
            rate = curve(step, xp)
            if not warmup_steps:
                return rate
            share = xp.minimum(1.0, (step + 1) / warmup_steps)
            if not warmup_rate:
                return rate * share
            return xp.where(share < 1.0, warmup_rate + (rate - warmup_rate) * share, rate)
        step = step // steps_per_epoch * steps_per_epoch
        rate = curve(step, xp)
        if not warmup_steps:
            return rate
        warm = warmup_rate + (learning_rate - warmup_rate) * (step / warmup_steps)
        return xp.where(step < warmup_steps, warm, rate)

    return schedule
