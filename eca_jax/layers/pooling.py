"""Spatial pooling whose last window may hang over the edge, as PyTorch's with `ceil_mode=True`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import max_pool


def halving_average_pool(x: jax.Array) -> jax.Array:
    """2x2 average of stride 2, [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), C], over the pixels that exist.

    PyTorch's `AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)`: a window at an odd edge averages one row or
    column, which is what the full window gives when that row or column is there twice.
    """
    _, height, width, _ = x.shape
    if height % 2 or width % 2:
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def halving_max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum of stride 2, [N, H, W, C] -> [N, H // 2, W // 2, C], first window in the corner.

    PyTorch's `MaxPool2d(3, 2, ceil_mode=True)`: where the size is even the last window lacks one row or column.
    """
    _, height, width, _ = x.shape
    return max_pool(x, window=3, stride=2, padding=((0, 1 - height % 2), (0, 1 - width % 2)))
