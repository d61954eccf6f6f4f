"""SGD, AdamW and the learning-rate schedules of the paper's recipes."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[Any], Any]


def make_schedule(
    *,
    name: str,
    learning_rate: float,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0,
    decay_epochs: int = 30,
    decay_rate: float = 0.1,
) -> Schedule:
    """The learning rate as a function of the number of updates done so far (a Python int or a traced int32).

    "step" is constant inside an epoch, as in PyTorch: learning_rate * decay_rate ** (epoch // decay_epochs). The
    paper's ResNets divide by 10 every 30 epochs; its MobileNetV2 multiplies by 0.98 every epoch (decay_epochs=1).
    "cosine" falls to zero, step by step, from the end of the warm-up to the last epoch.
    The warm-up grows linearly to the full rate over `warmup_epochs`, and multiplies either.

    Raises:
      ValueError: unknown name, or a warm-up that leaves no time to train.
    """
    if name not in ("step", "cosine"):
        raise ValueError(f"unknown schedule {name!r}: choose 'step' or 'cosine'")
    if not 0 <= warmup_epochs < num_epochs:
        raise ValueError(f"a warm-up of {warmup_epochs} epochs does not fit into {num_epochs}")
    warmup_steps = warmup_epochs * steps_per_epoch
    decay_steps = num_epochs * steps_per_epoch - warmup_steps

    def schedule(step: Any) -> Any:
        xp = jnp if isinstance(step, jax.Array) else np  # numpy on the host: a log line must not wait for the device
        if name == "step":
            rate = learning_rate * xp.power(decay_rate, xp.asarray(step // steps_per_epoch // decay_epochs, "float32"))
        else:
            progress = xp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
            rate = learning_rate * 0.5 * (1.0 + xp.cos(np.pi * progress))
        return rate * xp.minimum(1.0, (step + 1) / warmup_steps) if warmup_steps else rate

    return schedule


def make_optimizer(
    schedule: Schedule,
    *,
    name: str = "sgd",
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_kernels_only: bool = False,
    frozen: Sequence[str] = (),
    max_norm: float = 0.0,
    rates: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
    """PyTorch's SGD: the decay joins the gradient before the momentum, the learning rate multiplies after it.

    v <- momentum * v + (gradient + weight_decay * w);  w <- w - schedule(step) * v.

    "adamw" is PyTorch's AdamW, with `momentum` for its first beta and 0.999 for its second. A gradient whose norm over
    all parameters that are trained is above `max_norm` is scaled down to it; 0 leaves it alone.

    The paper decays every parameter, BatchNorm's and biases too; `decay_kernels_only` spares those. Parameters whose
    path ("body/layer1_0/conv1/kernel") matches one of the patterns `frozen` from its beginning stay as they are.
    `rates` are (pattern, share of the learning rate) each, of which the first that matches a path counts.

    Raises:
      ValueError: unknown name.
    """
    if name not in ("sgd", "adamw"):
        raise ValueError(f"unknown optimizer {name!r}: choose 'sgd' or 'adamw'")

    def kernels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    def kept(params: Any) -> Any:
        def matches(path: Any, _: Any) -> bool:
            name = "/".join(part.key for part in path)
            return any(re.match(pattern, name) for pattern in frozen)

        return jax.tree_util.tree_map_with_path(matches, params)

    def share(path: Any, update: Any) -> Any:
        name = "/".join(part.key for part in path)
        return update * next((factor for pattern, factor in rates if re.match(pattern, name)), 1.0)

    def scaled(updates: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(share, updates)

    still = [optax.masked(optax.set_to_zero(), kept)] if frozen else []
    clip = [*still, optax.clip_by_global_norm(max_norm)] if max_norm else []
    decay = optax.add_decayed_weights(weight_decay, mask=kernels if decay_kernels_only else None)
    if name == "sgd":
        steps = [decay, optax.trace(momentum, nesterov)]
    else:
        steps = [optax.scale_by_adam(b1=momentum, nesterov=nesterov), decay]
    shares = [optax.stateless(scaled)] if rates else []
    return optax.chain(*clip, *steps, optax.scale_by_learning_rate(schedule), *shares, *still)
