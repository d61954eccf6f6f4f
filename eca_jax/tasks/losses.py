"""Losses of classifiers, one value for each example."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy [N] of float32 logits [N, K] with int labels [N], as PyTorch's `label_smoothing` defines it.

    The target is 1 - label_smoothing on the label plus label_smoothing / K on every class.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * jnp.mean(log_probabilities, axis=1)
    return losses


def smoothed(labels: jax.Array, num_classes: int, label_smoothing: float = 0.0) -> jax.Array:
    """Targets float32 [N, K] of int labels [N], the target that `cross_entropy` describes."""
    off = label_smoothing / num_classes
    return jnp.where(labels[:, None] == jnp.arange(num_classes), jnp.float32(1.0 - label_smoothing + off), off)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy [N] of float32 logits with targets, both [N, K]."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=1)


def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, *, threshold: float | None = None, sum_classes: bool = False
) -> jax.Array:
    """Binary cross-entropy [N] of float32 logits with targets, both [N, K], of each class for itself.

    Wightman et al., "ResNet strikes back", 2021; timm's BinaryCrossEntropy.

    Args:
      threshold: a target above it becomes 1, any other 0; None keeps them.
      sum_classes: the sum over the classes, and not their mean. SGD's rate is then K times as much; LAMB's direction is
        the same, but its gradients are clipped where they were not.
    """
    if threshold is not None:
        targets = (targets > threshold).astype(logits.dtype)
    losses = jnp.maximum(logits, 0.0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(losses, axis=1) if sum_classes else jnp.mean(losses, axis=1)
