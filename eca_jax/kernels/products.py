"""Matrix products over the last axis, in the order of operands that XLA's CPU backend runs fast."""

import jax
from jax import lax


def matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., K] times w [K, F]."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def outer(x: jax.Array, g: jax.Array) -> jax.Array:
    """[K, F], the sum of x [..., K] times g [..., F] over all positions: the kernel gradient of a 1x1 convolution."""
    x, g = (v.reshape(-1, v.shape[-1]) for v in (x, g))
    if x.shape[1] > g.shape[1]:
        # The product is half as fast again with its shorter side first; the barrier keeps XLA from turning it back.
        return lax.optimization_barrier(outer(g, x)).T
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))
