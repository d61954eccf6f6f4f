"""Transformations of gradients that optax has in another form than PyTorch's and timm's optimisers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from eca_jax.training import parameters

Params = Any


def _stateless(update: Any) -> optax.GradientTransformation:
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda updates, state, params=None: (update(updates, params), state)
    )


def zeroed(patterns: tuple[str, ...]) -> optax.GradientTransformation:
    """Nothing where a path matches one of the patterns from its beginning."""
    return optax.masked(optax.set_to_zero(), lambda params: parameters.matching(params, patterns))


def scaled(rates: tuple[tuple[str, float], ...], layer_decay: float) -> optax.GradientTransformation:
    """Each parameter's update times its share of the learning rate; see `parameters.shares`."""

    def update(updates: Params, params: Params) -> Params:
        return jax.tree.map(lambda u, share: u * share, updates, parameters.shares(updates, rates, layer_decay))

    return _stateless(update)


def clip_by_global_norm(limit: float, epsilon: float = 1e-6) -> optax.GradientTransformation:
    """All gradients times min(1, limit / (norm + epsilon)), as torch.nn.utils.clip_grad_norm_ has it."""

    def update(updates: Params, params: Params) -> Params:
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + epsilon))
        return jax.tree.map(lambda u: u * factor, updates)

    return _stateless(update)


def clip_adaptively(factor: float, epsilon: float = 1e-3) -> optax.GradientTransformation:
    """Gradients whose norm is above `factor` times their parameter's, unit by unit, are scaled down to that.

    Brock et al., "High-performance large-scale image recognition without normalization", ICML 2021, equation 3, with
    timm's units: an output of a kernel, a whole vector, and each gain of a standardised convolution. The classifier's
    gradients stay as they are.
    """

    def norm(path: Any, leaf: jax.Array) -> jax.Array:
        if path[-1].key == parameters.GAIN:
            return jnp.abs(leaf)
        axes = tuple(range(leaf.ndim - 1)) if leaf.ndim > 1 else None
        return jnp.sqrt(jnp.sum(jnp.square(leaf), axis=axes, keepdims=True))

    def update(updates: Params, params: Params) -> Params:
        def clipped(path: Any, gradient: jax.Array, parameter: jax.Array, kept: bool) -> jax.Array:
            if kept:
                return gradient
            largest = jnp.maximum(norm(path, parameter), epsilon) * factor
            length = norm(path, gradient)
            return jnp.where(length < largest, gradient, gradient * (largest / jnp.maximum(length, 1e-6)))

        return jax.tree_util.tree_map_with_path(clipped, updates, params, parameters.classifiers(params))

    return _stateless(update)


def scale_by_lars(coefficient: float, weight_decay: float, mask: Any, epsilon: float) -> optax.GradientTransformation:
    """(g + decay * w) times coefficient |w| / (|g| + decay |w| + epsilon); g alone where `mask` is False.

    You et al., "Large batch training of convolutional networks", 2017, and timm's and MLPerf's form of it, which keeps
    the factor out of the norms' sum; optax takes the norm of g + decay * w.
    """

    def update(updates: Params, params: Params) -> Params:
        def adapted(gradient: jax.Array, parameter: jax.Array, decays: bool) -> jax.Array:
            if not decays or not weight_decay:
                return gradient
            size, slope = jnp.linalg.norm(parameter.ravel()), jnp.linalg.norm(gradient.ravel())
            trust = coefficient * size / (slope + size * weight_decay + epsilon)
            trust = jnp.where((size > 0) & (slope > 0), trust, 1.0)
            return (gradient + weight_decay * parameter) * trust

        return jax.tree.map(adapted, updates, params, mask(params))

    return _stateless(update)
