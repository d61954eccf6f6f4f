"""2-D convolution: `lax.conv_general_dilated`, on a CPU in the forms of `cpu_conv`.

Three primitives, each bilinear, and each the transpose of the others: derivatives of any order, forward and reverse,
are made of the same three.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad

from eca_jax.kernels import cpu_conv, xla_conv
from eca_jax.kernels.choice import Choice
from eca_jax.kernels.platform import apply, primitive
from eca_jax.kernels.xla_conv import Shape, Window


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | Sequence[Sequence[int]] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> jax.Array:
    """2-D convolution of x [N,H,W,C] with kernel [kh,kw,C/groups,F], taken in x's dtype: [N,H',W',F] of x's dtype.

    Its precision on accelerators is `jax.default_matmul_precision`'s where it is called.
    """
    window = Window(pair(stride), pads(padding), pair(dilation), groups, default_precision())
    return apply(conv2d_p, x, kernel.astype(x.dtype), window=window, differentiated=False)


def default_precision() -> str:
    """`jax.default_matmul_precision` where this is called."""
    config: Any = jax.config  # its names are not in its type
    return config.jax_default_matmul_precision or "default"


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """3 -> (3, 3)"""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def pads(padding: int | Sequence[Sequence[int]]) -> tuple[tuple[int, int], tuple[int, int]]:
    """1 -> ((1, 1), (1, 1)), pixels before and after in each dimension."""
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    (top, bottom), (left, right) = padding
    return ((top, bottom), (left, right))


def _plain(x: jax.Array, kernel: jax.Array, *, window: Window, differentiated: bool) -> jax.Array:
    return xla_conv.forward(x, kernel, window)


# `differentiated`: this is the value of a convolution whose gradient is taken, that is of training.
conv2d_p = primitive("conv2d", _plain, cpu=cpu_conv.forward)
_input_gradient_p = primitive("conv2d_input_gradient", xla_conv.input_gradient, cpu=cpu_conv.input_gradient)
_kernel_gradient_p = primitive("conv2d_kernel_gradient", xla_conv.kernel_gradient, cpu=cpu_conv.kernel_gradient)


def _input_gradient(g: jax.Array, kernel: jax.Array, window: Window, shape: Shape) -> jax.Array:
    return _input_gradient_p.bind(g, kernel, window=window, shape=shape)


def _kernel_gradient(x: jax.Array, g: jax.Array, window: Window, shape: Shape) -> jax.Array:
    return _kernel_gradient_p.bind(x, g, window=window, shape=shape)


def _convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return conv2d_p.bind(x, kernel, window=window, differentiated=False)


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, window: Window, differentiated: bool
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = conv2d_p.bind(x, kernel, window=window, differentiated=True)
    if isinstance(dx, ad.Zero):
        return y, _convolve(x, dkernel, window)
    if isinstance(dkernel, ad.Zero):
        return y, _convolve(dx, kernel, window)
    return y, _convolve(dx, kernel, window) + _convolve(x, dkernel, window)


ad.defbilinear(
    conv2d_p,
    lambda g, x, kernel, *, window, differentiated: _input_gradient(g, kernel, window, x.aval.shape),
    lambda g, x, kernel, *, window, differentiated: _kernel_gradient(x, g, window, kernel.aval.shape),
)
ad.primitive_jvps[conv2d_p] = _jvp
ad.defbilinear(
    _input_gradient_p,
    lambda x, g, kernel, *, window, shape: _convolve(x, kernel, window),
    lambda x, g, kernel, *, window, shape: _kernel_gradient(x, g, window, kernel.aval.shape),
)
ad.defbilinear(
    _kernel_gradient_p,
    lambda kernel, x, g, *, window, shape: _input_gradient(g, kernel, window, x.aval.shape),
    lambda kernel, x, g, *, window, shape: _convolve(x, kernel, window),
)


def _pointwise(x: jax.Array, kernel: jax.Array, *, window: Window) -> tuple[jax.Array]:
    return (apply(conv2d_p, x, kernel, window=window, differentiated=False),)


def unwritten(x: jax.Array, kernel: jax.Array, *, window: Window) -> tuple[jax.Array]:
    return (jnp.zeros((*x.shape[:-1], kernel.shape[-1]), x.dtype),)


# x [N,H,W,K] and kernel [1,1,K,C] of one dtype -> [N,H,W,C]; zeros on a TPU, where nothing reads it. See `pointwise`.
pointwise_conv = Choice("pointwise_conv", _pointwise, tpu=unwritten)


class Convolution(NamedTuple):
    """One convolution of a traced program: shapes of input, kernel and output, and how the kernel moves."""

    x: Shape
    kernel: Shape
    y: Shape
    window: Window

    @property
    def multiply_adds(self) -> int:
        return math.prod(self.y) * math.prod(self.kernel[:3])


def convolutions(jaxpr: core.Jaxpr) -> Iterator[Convolution]:
    """Every `conv2d` of a traced program, nested programs included, in order, and those of `pointwise`."""
    for equation in jaxpr.eqns:
        if equation.primitive in (conv2d_p, pointwise_conv.operation):
            variables: Sequence[Any] = (*equation.invars, *equation.outvars)
            x, kernel, y = (variable.aval.shape for variable in variables)
            yield Convolution(x, kernel, y, equation.params["window"])
        for inner in core.jaxprs_in_params(equation.params):
            yield from convolutions(inner)
