"""What a BatchNorm does to a feature map: its statistics, and one affine map for each channel and group of examples."""

import jax
import jax.numpy as jnp

from eca_jax.kernels.means import means
from eca_jax.kernels.shifts import split


def batch_statistics(x: jax.Array, groups: int, with_mean: bool) -> tuple[jax.Array, ...]:
    """Statistics of x [N,H,W,C], float32, over `groups` groups of consecutive examples.

    Returns:
      mean, var: [groups, C]; var is biased, not negative.
      of_examples: [N, C], the means of each example; only `with_mean`.
    """
    grouped = split(x.astype(jnp.float32), groups)
    of_examples, mean = means(grouped) if with_mean else (None, jnp.mean(grouped, axis=(1, 2, 3)))
    # E[x^2] - E[x]^2 needs one pass over x; rounding may take it below zero.
    var = jnp.maximum(jnp.mean(jnp.square(grouped), axis=(1, 2, 3)) - jnp.square(mean), 0.0)
    return (mean, var) if of_examples is None else (mean, var, of_examples.reshape(len(x), x.shape[-1]))


def scale_shift(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """scale * x + shift for x [N, H, W, C]; scale and shift, float32 [G, C], hold for N / G consecutive examples each.

    The result has x's dtype. The coefficients are rounded after they are broadcast, so that their gradients, sums over
    all positions, are taken in float32 also where x is bfloat16.
    """
    grouped = split(x, len(scale))

    def coefficient(v: jax.Array) -> jax.Array:
        return jnp.broadcast_to(v[:, None, None, None, :], grouped.shape).astype(x.dtype)

    return (grouped * coefficient(scale) + coefficient(shift)).reshape(x.shape)
