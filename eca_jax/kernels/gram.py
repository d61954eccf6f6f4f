"""What a 1x1 convolution with BatchNorm behind it needs so that its result is never written in training.

Of y = z W the mean is mean(z) W and the variance of channel c is w_c' Cov(z) w_c, so that the statistics are known
before the convolution runs, and convolution, normalisation, gate, residual sum and ReLU are one pass. The two functions
here have exact gradients of their own that do not read y either. Derivation, rounding and figures: BENCHMARKS.md, "A
convolution's statistics from its input". Forms for a TPU; nothing else is known to gain by them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from eca_jax.kernels import xla_conv
from eca_jax.kernels.xla_conv import Window

_HIGHEST = lax.Precision.HIGHEST


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def moments(z: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """First and second moments of z [N,H,W,K], float32.

    Returns:
      mean: [N,K], each example's over height and width.
      second: [groups,K,K], the mean of z z' over the positions of N / groups consecutive examples.
    """
    grouped = _split(z, groups)
    count = grouped[0].size // z.shape[-1]
    total = _contract(grouped, grouped, (1, 2, 3))
    return jnp.mean(z, axis=(1, 2), dtype=jnp.float32), total / count


def _moments_forward(z: jax.Array, groups: int) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    return moments(z, groups), z


def _moments_backward(groups: int, z: jax.Array, cotangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    dmean, dsecond = cotangents
    grouped = _split(z, groups)
    pixels = z.shape[1] * z.shape[2]
    both = (dsecond + jnp.swapaxes(dsecond, 1, 2)) / (len(grouped[0]) * pixels)
    # z D, with the small D rounded to z's dtype, as every product of a network of that dtype.
    through = lax.dot_general(grouped, both.astype(z.dtype), (((4,), (1,)), ((0,), (0,))), **_exactly(z))
    spread = through.reshape(z.shape) + (dmean / pixels)[:, None, None, :]
    return (spread.astype(z.dtype),)


moments.defvjp(_moments_forward, _moments_backward)


@jax.custom_vjp
def affine_conv(z: jax.Array, w: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """a (z W) + b: z [N,H,W,K], w [K,C] of one dtype, a and b float32 [R,C] -> [N,H,W,C] of that dtype.

    A row of a and b holds for N / R consecutive examples.
    """
    y = _conv(z, w)
    return y * _rows(a, y) + _rows(b, y)


def _affine_forward(z: jax.Array, w: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
    return affine_conv(z, w, a, b), (z, w, a)


def _affine_backward(residuals: tuple[Any, ...], g: jax.Array) -> tuple[jax.Array, ...]:
    z, w, a = residuals
    scaled = g * _rows(a, g)
    window = Window(precision=_precision())
    dz = xla_conv.input_gradient(scaled, w[None, None], window, z.shape)
    grouped = _split(g, len(a))
    db = jnp.sum(grouped, axis=(1, 2, 3), dtype=jnp.float32)
    if _by_products(z, rows=len(a)):
        # z'g for every row holds both: da is its product with W, dw its sum with the weights a.
        products = _contract(_split(z, len(a)), grouped, (1, 2, 3))
        da = jnp.sum(products * w.astype(jnp.float32), axis=1)
        dw = jnp.sum(products * a[:, None, :], axis=0)
    else:
        # The convolution again, for its sums with g alone; without the barrier it is the forward one, which is written.
        y = _conv(z, lax.optimization_barrier(w))
        da = jnp.sum(_split(y, len(a)).astype(jnp.float32) * grouped.astype(jnp.float32), axis=(1, 2, 3))
        dw = xla_conv.kernel_gradient(z, scaled, window, (1, 1, *w.shape))[0, 0]
    return dz, dw.astype(w.dtype), da, db


affine_conv.defvjp(_affine_forward, _affine_backward)


def _by_products(z: jax.Array, rows: int) -> bool:
    """Whether z'g is made for each row of the coefficients: free where they are a group's, dear for many small maps."""
    examples, height, width, channels = z.shape
    return height * width * (examples // rows) >= 4 * channels


def _conv(z: jax.Array, w: jax.Array) -> jax.Array:
    return xla_conv.forward(z, w[None, None], Window(precision=_precision()))


def _precision() -> str:
    config: Any = jax.config  # its names are not in its type
    return config.jax_default_matmul_precision or "default"


def _exactly(x: jax.Array) -> dict[str, Any]:
    """How products of x are taken: in float32, of all of its digits. The variance is a difference of them."""
    return {"precision": None if x.dtype == jnp.bfloat16 else _HIGHEST, "preferred_element_type": jnp.float32}


def _contract(x: jax.Array, y: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """[R,...,K] and [R,...,C] -> float32 [R,K,C], summed over `axes`."""
    return lax.dot_general(x, y, ((axes, axes), ((0,), (0,))), **_exactly(x))


def _split(x: jax.Array, parts: int) -> jax.Array:
    return x.reshape(parts, len(x) // parts, *x.shape[1:])


def _rows(v: jax.Array, x: jax.Array) -> jax.Array:
    """float32 [R,C] as a map of x's shape and dtype."""
    spread = jnp.broadcast_to(v[:, None, None, None, :], (len(v), len(x) // len(v), *x.shape[1:]))
    return spread.astype(x.dtype).reshape(x.shape)
