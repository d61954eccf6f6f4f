"""Losses of the detectors as sums over what counts; the division by the batch's counts is the caller's."""

import jax
import jax.numpy as jnp


def smooth_l1(predicted: jax.Array, target: jax.Array, beta: float) -> jax.Array:
    """0.5 d² / beta below `beta`, d - 0.5 beta from there on, elementwise; beta 0 is L1."""
    distance = jnp.abs(predicted - target)
    if not beta:
        return distance
    return jnp.where(distance < beta, 0.5 * jnp.square(distance) / beta, distance - 0.5 * beta)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Elementwise, in float32, of logits and targets in [0, 1]."""
    logits = logits.astype(jnp.float32)
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def focal(logits: jax.Array, targets: jax.Array, alpha: float = 0.25, gamma: float = 2.0) -> jax.Array:
    """Focal loss, elementwise (Lin et al., "Focal loss for dense object detection", ICCV 2017), of targets 0 or 1."""
    p = jax.nn.sigmoid(logits.astype(jnp.float32))
    wrong = p * (1 - targets) + (1 - p) * targets
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * binary_cross_entropy(logits, targets) * wrong**gamma


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy [...] in float32 of logits [..., C] and labels int [...]."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
