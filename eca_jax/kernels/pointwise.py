"""A 1x1 convolution with BatchNorm behind it, whose result a TPU never writes in training.

Of y = x W the mean is mean(x) W and the variance of channel c is w_c' Cov(x) w_c, so that the statistics are known
before the convolution runs, and convolution, normalisation, gate, residual sum and ReLU are one pass, forward and
backward. Three operations, that are one whole on each platform: the convolution, its statistics and the affine map of
it. Elsewhere the first writes y and the others read it; on a TPU y is zeros, nothing reads it, and the others read x.
Derivation, rounding and figures: BENCHMARKS.md, "A convolution's statistics from its input".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from eca_jax.kernels import xla_conv
from eca_jax.kernels.choice import Choice
from eca_jax.kernels.conv import default_precision, pointwise_conv
from eca_jax.kernels.scale import batch_statistics, scale_shift
from eca_jax.kernels.shifts import split
from eca_jax.kernels.xla_conv import Window

_HIGHEST = lax.Precision.HIGHEST
Arrays = tuple[jax.Array, ...]


class Pointwise(NamedTuple):
    """The convolution of x [N,H,W,K] with kernel [1,1,K,C] of x's dtype, of which only what its methods say is known.

    `y` [N,H,W,C] is the result where it is written; on a TPU it is zeros. It is here for its shape and dtype.
    """

    y: jax.Array
    x: jax.Array
    kernel: jax.Array
    window: Window

    def statistics(self, y: jax.Array, groups: int, with_mean: bool) -> Arrays:
        """`batch_statistics` of the result `y`."""
        return tuple(statistics(y, self.x, self.kernel, groups=groups, with_mean=with_mean))

    def scale_shift(self, scale: jax.Array, shift: jax.Array) -> jax.Array:
        """`scale_shift` of the result."""
        return affine(self.y, self.x, self.kernel, scale, shift, window=self.window)[0]


def pointwise(x: jax.Array, kernel: jax.Array) -> Pointwise:
    """x [N,H,W,K] with kernel [1,1,K,C], taken in x's dtype; its precision is the one of `conv2d`."""
    kernel, window = kernel.astype(x.dtype), Window(precision=default_precision())
    return Pointwise(pointwise_conv(x, kernel, window=window)[0], x, kernel, window)


def _statistics(y: jax.Array, x: jax.Array, kernel: jax.Array, *, groups: int, with_mean: bool) -> Arrays:
    return batch_statistics(y, groups, with_mean)


def statistics_from_input(y: jax.Array, x: jax.Array, kernel: jax.Array, *, groups: int, with_mean: bool) -> Arrays:
    """What `batch_statistics` returns of x W, from the moments of x. `y` is not read."""
    return _of_result(*_moments(x, groups), kernel[0, 0].astype(jnp.float32), with_mean)


def _moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Means of each example, float32 [N,K], and of x x' over the positions of each group, float32 [groups,K,K]."""
    grouped = split(x, groups)
    total = _contract(grouped, grouped)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32), total / (grouped[0].size // x.shape[-1])


def _of_result(of_examples: jax.Array, second: jax.Array, w: jax.Array, with_mean: bool) -> Arrays:
    groups = len(second)
    of_groups = jnp.mean(split(of_examples, groups), axis=1)
    # Cancelled in K x K, before W: of channels that W cancels nothing is lost.
    covariance = second - of_groups[:, :, None] * of_groups[:, None, :]
    spread = jnp.einsum("gkl,lc->gkc", covariance, w, precision=_HIGHEST)
    var = jnp.maximum(jnp.sum(w * spread, axis=1), 0.0)
    mean = jnp.dot(of_groups, w, precision=_HIGHEST)
    return (mean, var, jnp.dot(of_examples, w, precision=_HIGHEST)) if with_mean else (mean, var)


def statistics_transpose(arrays: Arrays, cotangents: Arrays, *, groups: int, with_mean: bool) -> Arrays:
    """Gradients of `statistics_from_input`: dx = x (D + D') / count + d / HW, with D and d those of the moments."""
    y, x, kernel = arrays
    w = kernel[0, 0].astype(jnp.float32)
    _, back = jax.vjp(lambda m, s, w: _of_result(m, s, w, with_mean), *_moments(x, groups), w)
    dmean, dsecond, dw = back(tuple(cotangents))
    grouped, pixels = split(x, groups), x.shape[1] * x.shape[2]
    both = (dsecond + jnp.swapaxes(dsecond, 1, 2)) / (len(grouped[0]) * pixels)
    # With the small D rounded to x's dtype, as every product of a network of that dtype.
    through = lax.dot_general(grouped, both.astype(x.dtype), (((4,), (1,)), ((0,), (0,))), **_exactly(x))
    dx = through.reshape(x.shape) + (dmean / pixels)[:, None, None, :]
    return jnp.zeros_like(y), dx.astype(x.dtype), dw[None, None].astype(kernel.dtype)


def _affine(
    y: jax.Array, x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array, *, window: Window
) -> tuple[jax.Array]:
    return (scale_shift(y, a, b),)


def affine_of_input(
    y: jax.Array, x: jax.Array, kernel: jax.Array, a: jax.Array, b: jax.Array, *, window: Window
) -> tuple[jax.Array]:
    """a (x W) + b, for a and b as those of `scale_shift`. `y` is not read."""
    return (scale_shift(xla_conv.forward(x, kernel, window), a, b),)


def affine_transpose(arrays: Arrays, cotangents: Arrays, *, window: Window) -> Arrays:
    """Gradients of `affine_of_input`, of which only da needs more than x, W, a and the cotangent g."""
    y, x, kernel, a, _ = arrays
    (g,) = cotangents
    scaled = scale_shift(g, a, jnp.zeros_like(a))
    dx = xla_conv.input_gradient(scaled, kernel, window, x.shape)
    rows = len(a)
    grouped = split(g, rows)
    db = jnp.sum(grouped, axis=(1, 2, 3), dtype=jnp.float32)
    if _by_products(x, rows):
        # x'g for every row holds both: da is its product with W, dw its sum with the weights a.
        products = _contract(split(x, rows), grouped)
        da = jnp.sum(products * kernel[0, 0].astype(jnp.float32), axis=1)
        dw = jnp.sum(products * a[:, None, :], axis=0)[None, None]
    else:
        # The convolution again, for its sums with g alone; without the barrier it is the forward one, which is written.
        again = xla_conv.forward(x, lax.optimization_barrier(kernel), window)
        da = jnp.sum(split(again, rows).astype(jnp.float32) * grouped.astype(jnp.float32), axis=(1, 2, 3))
        dw = xla_conv.kernel_gradient(x, scaled, window, kernel.shape)
    return jnp.zeros_like(y), dx, dw.astype(kernel.dtype), da, db


def _by_products(x: jax.Array, rows: int) -> bool:
    """Whether x'g is made for each row of the coefficients: free where they are a group's, dear for many small maps."""
    examples, height, width, channels = x.shape
    return height * width * (examples // rows) >= 4 * channels


def _exactly(x: jax.Array) -> dict[str, Any]:
    """How products of x are taken: in float32, of all of its digits. The variance is a difference of them."""
    return {"precision": None if x.dtype == jnp.bfloat16 else _HIGHEST, "preferred_element_type": jnp.float32}


def _contract(x: jax.Array, y: jax.Array) -> jax.Array:
    """[R,N,H,W,K] and [R,N,H,W,C] -> float32 [R,K,C], summed over N, H and W."""
    return lax.dot_general(x, y, (((1, 2, 3), (1, 2, 3)), ((0,), (0,))), **_exactly(x))


statistics = Choice("pointwise_statistics", _statistics, {"tpu": statistics_transpose}, tpu=statistics_from_input)
affine = Choice("pointwise_affine", _affine, {"tpu": affine_transpose}, tpu=affine_of_input)
