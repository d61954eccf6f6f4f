"""The pixels that each tap of a kernel meets, as arrays: what forms made of elementwise operations are made of."""

import jax
import jax.numpy as jnp

from eca_jax.kernels.xla_conv import Padding


def shifts(
    x: jax.Array, taps: tuple[int, int], stride: tuple[int, int], padding: Padding, fill: float = 0.0
) -> list[jax.Array]:
    """For every kernel tap, row by row, the pixels of x that it meets: arrays [N,H',W',C]."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    height, width = (n - k + 1 for n, k in zip(x.shape[1:3], taps, strict=True))
    return [x[:, i : i + height : stride[0], j : j + width : stride[1]] for i in range(taps[0]) for j in range(taps[1])]


def split(x: jax.Array, parts: int) -> jax.Array:
    """[N, ...] -> [parts, N / parts, ...]"""
    return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])  # not len: the batch of an export is a symbol
