"""Optimisers as PyTorch and timm define them, by name."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from eca_jax.training import parameters, transforms
from eca_jax.training.schedules import Schedule

NAMES = ("sgd", "lars", "rmsprop_tf", "adamw", "lamb")

# What is the optimiser's own unless a recipe says otherwise.
_BETA2 = {"rmsprop_tf": 0.9, "adamw": 0.999, "lamb": 0.999}
_EPSILON = {"lars": 1e-8, "rmsprop_tf": 1e-3, "adamw": 1e-8, "lamb": 1e-6}
_MAX_NORM = {"lamb": 1.0}
_RATE_IN_MOMENTUM = {"rmsprop_tf": True}


def make_optimizer(
    schedule: Schedule,
    *,
    name: str = "sgd",
    momentum: float = 0.9,
    nesterov: bool = False,
    beta2: float | None = None,
    epsilon: float | None = None,
    trust: float = 0.001,
    rate_in_momentum: bool | None = None,
    weight_decay: float = 0.0,
    decay_kernels_only: bool = False,
    max_norm: float | None = None,
    clip_adaptively: float = 0.0,
    frozen: Sequence[str] = (),
    rates: Sequence[tuple[str, float]] = (),
    layer_decay: float = 1.0,
) -> optax.GradientTransformation:
    """An optimiser at parity with PyTorch's ("sgd", "adamw") or timm's ("lamb", "lars", "rmsprop_tf").

    "sgd": v <- momentum * v + (g + weight_decay * w);  w <- w - rate * v.
    "lars": the same of gradients that `transforms.scale_by_lars` adapts.
    "rmsprop_tf": s <- s + (1 - beta2) (g^2 - s) from s = 1, v <- momentum * v + rate * g / sqrt(s + epsilon).
    "adamw": Adam with the decay beside the gradient, by `rate * weight_decay * w`.
    "lamb": You et al., ICLR 2020, as timm has it: Adam's direction with the decay, times |w| / |direction|; without
      that factor where nothing decays, and of gradients whose global norm is at most 1.

    Args:
      schedule: the learning rate as a function of the updates done.
      momentum: of "adamw" and "lamb" Adam's beta1.
      nesterov: of "sgd" and "lars".
      beta2: of the squared gradients; None is 0.999, of "rmsprop_tf" 0.9.
      epsilon: None is 1e-8, of "lamb" 1e-6, of "rmsprop_tf" 1e-3.
      trust: LARS's coefficient.
      rate_in_momentum: the rate multiplies what goes into the momentum, as TensorFlow has it (MLPerf's LARS), and not
        what comes out of it; None is False, of "rmsprop_tf" True. No matter while the rate is constant.
      weight_decay: of every parameter, as the paper has it.
      decay_kernels_only: spares what has one axis or none: BatchNorm's parameters, biases.
      max_norm: of all gradients together; 0 never clips, None is 1 of "lamb" and 0 of others.
      clip_adaptively: timm's `--clip-mode agc`; 0 never clips. See `transforms.clip_adaptively`.
      frozen: parameters whose path ("body/layer1_0/conv1/kernel") matches one of these patterns from its beginning
        stay as they are, and their gradients count in no norm.
      rates: (pattern, share of the learning rate) each; the first that matches a path counts: (("fc/", 10.0),).
      layer_decay: the rate falls by this factor from each layer to the one before it; see `parameters.shares`.

    Raises:
      ValueError: unknown name, or an option out of its range; when it first sees parameters, as `parameters.shares`.
    """
    if name not in NAMES:
        raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(NAMES)}")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, not {layer_decay}")
    rates = tuple((str(pattern), float(share)) for pattern, share in rates)
    max_norm = _MAX_NORM.get(name, 0.0) if max_norm is None else max_norm
    beta2 = _BETA2.get(name, 0.0) if beta2 is None else beta2
    epsilon = _EPSILON.get(name, 0.0) if epsilon is None else epsilon
    inside = _RATE_IN_MOMENTUM.get(name, False) if rate_in_momentum is None else rate_in_momentum
    mask: Callable[[Any], Any] = parameters.kernels if decay_kernels_only else _everything

    clips = [transforms.clip_by_global_norm(max_norm)] if max_norm else []
    clips += [transforms.clip_adaptively(clip_adaptively)] if clip_adaptively else []
    if clips and frozen:
        clips = [transforms.zeroed(tuple(frozen)), *clips]

    decay = optax.add_decayed_weights(weight_decay, mask=mask if decay_kernels_only else None)
    rate = optax.scale_by_learning_rate(schedule)
    trace = optax.trace(momentum, nesterov)
    momentum_and_rate = [rate, trace] if inside else [trace, rate]
    if name == "sgd":
        steps = [decay, *momentum_and_rate]
    elif name == "lars":
        steps = [transforms.scale_by_lars(trust, weight_decay, mask, epsilon), *momentum_and_rate]
    elif name == "rmsprop_tf":
        squares = optax.scale_by_rms(decay=beta2, eps=epsilon, initial_scale=1.0, eps_in_sqrt=True)
        steps = [decay, squares, *(momentum_and_rate if momentum else [rate])]
    else:
        steps = [optax.scale_by_adam(b1=momentum, b2=beta2, eps=epsilon), decay]
        if name == "lamb" and weight_decay:
            steps.append(optax.masked(optax.scale_by_trust_ratio(), mask))
        steps.append(rate)
    tail = [transforms.scaled(rates, layer_decay)] if rates or layer_decay != 1.0 else []
    tail += [transforms.zeroed(tuple(frozen))] if frozen else []
    return optax.chain(*clips, *steps, *tail)


def _everything(params: Any) -> Any:
    return jax.tree.map(lambda leaf: True, params)
