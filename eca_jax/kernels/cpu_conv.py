"""Convolutions in the forms that XLA's CPU backend runs fast, for float32.

The backend hands matrix products to a good library. Its own depthwise convolutions and several gradients are far slower
than the machine allows, and it knows no Winograd convolution. Each form here equals the plain one to float32 rounding.
BENCHMARKS.md, "Convolutions on a CPU", has the speed of each, and `eca-jax bench conv` measures it again.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from eca_jax.kernels import winograd, xla_conv
from eca_jax.kernels.barriers import in_memory
from eca_jax.kernels.products import matmul, outer
from eca_jax.kernels.shifts import shifts, split
from eca_jax.kernels.xla_conv import Shape, Window


class ConvForm(NamedTuple):
    """One way to compute a convolution and its two gradients."""

    forward: Callable[[jax.Array, jax.Array, Window], jax.Array]  # (x, kernel, window)
    input_gradient: Callable[[jax.Array, jax.Array, Window, Shape], jax.Array]  # (g, kernel, window, shape of x)
    kernel_gradient: Callable[[jax.Array, jax.Array, Window, Shape], jax.Array]  # (x, g, window, shape of kernel)


def form_for(x: Shape, kernel: Shape, window: Window) -> ConvForm:
    """The fastest form of a convolution, by the shapes of its arguments."""
    *taps, channels, features = kernel
    undilated, whole = window.dilation == (1, 1), window.groups == 1
    if taps == [1, 1] and whole and window.padding == ((0, 0), (0, 0)):
        return MATMUL
    if channels == 1 and window.groups == features and undilated:
        return DEPTHWISE
    if (
        taps == [3, 3]
        and window.stride == (1, 1)
        and undilated
        and whole
        and winograd.pays(x, features, window.padding)
    ):
        return WINOGRAD
    if 1 < max(window.stride) <= min(taps) and undilated and whole:
        return STRIDED
    return DIRECT


def forward(x: jax.Array, kernel: jax.Array, *, window: Window, differentiated: bool) -> jax.Array:
    """x [N,H,W,C], kernel [kh,kw,C/groups,F] -> [N,H',W',F]."""
    form = form_for(x.shape, kernel.shape, window)
    y = form.forward(*_wide(x, kernel), window)
    if form is DEPTHWISE and differentiated:  # in training BatchNorm reads the result three times
        y = in_memory(y)
    return y.astype(x.dtype)


def input_gradient(g: jax.Array, kernel: jax.Array, *, window: Window, shape: Shape) -> jax.Array:
    """The transpose of `forward` in x, of `shape`."""
    return form_for(shape, kernel.shape, window).input_gradient(*_wide(g, kernel), window, shape).astype(g.dtype)


def kernel_gradient(x: jax.Array, g: jax.Array, *, window: Window, shape: Shape) -> jax.Array:
    """The transpose of `forward` in the kernel, of `shape`."""
    return form_for(x.shape, shape, window).kernel_gradient(*_wide(x, g), window, shape).astype(x.dtype)


def _wide(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A CPU has no fast kernels for 16 bits."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return x.astype(dtype), y.astype(dtype)


# A 1x1 convolution is a matrix product of the pixels that the stride meets.


def _met(x: jax.Array, window: Window) -> jax.Array:
    return x[:, :: window.stride[0], :: window.stride[1]]


def _matmul_forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return matmul(_met(x, window), kernel[0, 0])


def _matmul_input_gradient(g: jax.Array, kernel: jax.Array, window: Window, shape: Shape) -> jax.Array:
    # For JAX's own transpose in the kernel XLA writes all of g out again, transposed: up to four times the time.
    dx = matmul(g, kernel[0, 0].T)
    return jax.linear_transpose(lambda x: _met(x, window), jax.ShapeDtypeStruct(shape, g.dtype))(dx)[0]


def _matmul_kernel_gradient(x: jax.Array, g: jax.Array, window: Window, shape: Shape) -> jax.Array:
    return outer(_met(x, window), g)[None, None]


# A depthwise convolution is a sum of shifted multiply-adds.


def _depthwise_forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    height, width, _, channels = kernel.shape
    shifted = shifts(x, (height, width), window.stride, window.padding)
    return sum(v * tap for v, tap in zip(shifted, kernel.reshape(-1, channels), strict=True))


def _depthwise_input_gradient(g: jax.Array, kernel: jax.Array, window: Window, shape: Shape) -> jax.Array:
    # The transpose is a convolution of g, spread out by the stride, with the kernel turned round.
    sizes = zip(kernel.shape[:2], window.padding, shape[1:3], g.shape[1:3], window.stride, strict=True)
    pads = [(k - 1 - low, n + low - (m - 1) * s - 1, s - 1) for k, (low, _), n, m, s in sizes]
    spread = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    return _depthwise_forward(spread, kernel[::-1, ::-1], Window())


def _depthwise_kernel_gradient(x: jax.Array, g: jax.Array, window: Window, shape: Shape) -> jax.Array:
    # A reduction over (N,H,W) runs in scalar code on one core; sums of arrays run in vectors on all. So add up a few
    # examples at a time into [H',W',C] accumulators, one a tap, and reduce those.
    count = math.gcd(len(x), 4)
    height, width, _, _ = shape

    def accumulate(sums: list[jax.Array], examples: tuple[jax.Array, jax.Array]) -> tuple[list[jax.Array], None]:
        x, g = examples
        shifted = shifts(x, (height, width), window.stride, window.padding)
        return [s + sum(v[n] * g[n] for n in range(count)) for s, v in zip(sums, shifted, strict=True)], None

    zeros = [jnp.zeros_like(g[0])] * (height * width)
    sums, _ = lax.scan(accumulate, zeros, (split(x, len(x) // count), split(g, len(g) // count)))
    return jnp.stack([jnp.sum(s, axis=(0, 1)) for s in sums]).reshape(shape)


# Of a strided convolution, XLA's input gradient spreads g out with zeros and multiplies by them. The pixels of x that
# meet the same taps need no zeros.


def _strided_input_gradient(g: jax.Array, kernel: jax.Array, window: Window, shape: Shape) -> jax.Array:
    turned = jnp.swapaxes(kernel, 2, 3)
    rows, columns = (
        [_phase(r, *sizes) for r in range(sizes[-1])]
        for sizes in zip(shape[1:3], g.shape[1:3], kernel.shape[:2], window.padding, window.stride, strict=True)
    )
    phases = [
        [xla_conv.forward(g, turned[i][:, j], Window(padding=(top, left))) for j, left in columns] for i, top in rows
    ]
    dx = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    dx = dx.reshape(len(g), dx.shape[1] * window.stride[0], dx.shape[3] * window.stride[1], -1)
    return dx[:, : shape[1], : shape[2]]


def _phase(
    first: int, length: int, outputs: int, taps: int, padding: tuple[int, int], stride: int
) -> tuple[slice, tuple[int, int]]:
    """In one dimension, the taps that pixels first, first + stride, ... meet, and the padding of their convolution.

    Output o meets pixel p through tap p + padding - stride * o; the taps are in the order of the outputs.
    """
    last = taps - 1 - (taps - 1 - first - padding[0]) % stride
    count = last // stride + 1
    low = (last - first - padding[0]) // stride
    return slice(last, None, -stride), (low, math.ceil(length / stride) - outputs - low + count - 1)


MATMUL = ConvForm(_matmul_forward, _matmul_input_gradient, _matmul_kernel_gradient)
DEPTHWISE = ConvForm(_depthwise_forward, _depthwise_input_gradient, _depthwise_kernel_gradient)
WINOGRAD = ConvForm(winograd.forward, winograd.input_gradient, winograd.kernel_gradient)
STRIDED = ConvForm(xla_conv.forward, _strided_input_gradient, xla_conv.kernel_gradient)
DIRECT = ConvForm(xla_conv.forward, xla_conv.input_gradient, xla_conv.kernel_gradient)
