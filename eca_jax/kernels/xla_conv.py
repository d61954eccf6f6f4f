"""XLA's own convolution, and its gradients as JAX derives them."""

from typing import NamedTuple

import jax
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
Shape = tuple[int, ...]


class Window(NamedTuple):
    """How a kernel moves over an image, and how exactly it is multiplied."""

    stride: tuple[int, int] = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    precision: str = "default"  # on accelerators; of `jax.lax.Precision`


def forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """x [N,H,W,C], kernel [kh,kw,C/groups,F] -> [N,H',W',F]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
        precision=window.precision,
    )


def input_gradient(g: jax.Array, kernel: jax.Array, window: Window, shape: Shape) -> jax.Array:
    """The transpose of `forward` in x, of `shape`."""
    x = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda x: forward(x, kernel, window), x)(g)[0]


def kernel_gradient(x: jax.Array, g: jax.Array, window: Window, shape: Shape) -> jax.Array:
    """The transpose of `forward` in the kernel, of `shape`."""
    kernel = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda kernel: forward(x, kernel, window), kernel)(g)[0]
