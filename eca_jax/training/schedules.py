"""Learning rates over a run, as functions of the number of updates done so far."""

from collections.abc import Callable, Sequence
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
    noise: Sequence[float] = (),
    noise_limit: float = 0.67,
    noise_std: float = 1.0,
    seed: int = 0,
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
      noise: (first, end) as shares of the run before the cool-down: the rate of an epoch from the first of them to
        before the second is (1 + d) times what it would be. d is a normal deviate times `noise_std`, drawn again while
        its size is not below `noise_limit`, by PyTorch's generator from seed + epoch, as timm draws it.

    Raises:
      ValueError: unknown name or form, a warm-up or cool-down that leaves no time to train, or noise that cannot be.
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
    if noise and not (len(noise) == 2 and 0 <= noise[0] <= noise[1] and noise_limit > 0):
        raise ValueError(f"noise takes two shares of the run in order and a noise_limit above 0, not {tuple(noise)}")
    between = [share * (num_epochs - cooldown_epochs) for share in noise]
    factors = [
        1.0 + (deviate(seed + epoch, noise_std, noise_limit) if between[0] <= epoch < between[1] else 0.0)
        for epoch in range(num_epochs if noise else 0)
    ]
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

    def smooth(step: Any, xp: Any) -> Any:
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

    def schedule(step: Any) -> Any:
        xp = jnp if isinstance(step, jax.Array) else np  # numpy on the host: a log line must not wait for the device
        rate = smooth(step, xp)
        if not noise:
            return rate
        return rate * xp.asarray(factors, "float32")[xp.minimum(step // steps_per_epoch, num_epochs - 1)]

    return schedule


def deviate(seed: int, std: float, limit: float) -> float:
    """The first number below `limit` in size of `std * torch.randn(1)`, again and again from a generator of this seed.

    PyTorch draws by Box and Muller from two halves of 53 bits of the Mersenne twister, which NumPy has too.
    """
    twister = np.random.RandomState(seed)
    while True:
        words = np.frombuffer(twister.bytes(16), "<u4").astype(np.uint64)
        angle, radius = ((words[::2] << np.uint64(32) | words[1::2]) & np.uint64(2**53 - 1)) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-radius))
        for drawn in (radius * np.cos(2 * np.pi * angle), radius * np.sin(2 * np.pi * angle)):
            if abs(std * drawn) < limit:
                return float(std * drawn)
