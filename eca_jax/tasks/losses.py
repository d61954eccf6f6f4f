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
