"""Max-pooling: `lax.reduce_window`, on a CPU with a gradient of its own."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from eca_jax.kernels.conv import pads, pair
from eca_jax.kernels.platform import apply, primitive
from eca_jax.kernels.shifts import shifts
from eca_jax.kernels.xla_conv import Padding

Pair = tuple[int, int]


def max_pool(
    x: jax.Array,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | Sequence[Sequence[int]] = 0,
) -> jax.Array:
    """Largest value of each window of x [N,H,W,C]; the padding is -inf, as in PyTorch.

    The gradient goes to the first largest value of each window, row by row, as in PyTorch.
    """
    return apply(_pool_p, x, window=pair(window), stride=pair(stride), padding=pads(padding))


def _plain(x: jax.Array, *, window: Pair, stride: Pair, padding: Padding) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), ((0, 0), *padding, (0, 0)))


def _pick_plain(t: jax.Array, x: jax.Array, y: jax.Array, **where: Any) -> jax.Array:
    """Of the tangent t of x, what belongs to the largest values."""
    return jax.jvp(lambda x: _plain(x, **where), (x,), (t,))[1]


def _spread_plain(g: jax.Array, x: jax.Array, y: jax.Array, **where: Any) -> jax.Array:
    """The transpose of `_pick_plain`."""
    return jax.vjp(lambda x: _plain(x, **where), x)[1](g)[0]


def _spread_by_shifts(
    g: jax.Array, x: jax.Array, y: jax.Array, *, window: Pair, stride: Pair, padding: Padding
) -> jax.Array:
    """XLA's CPU backend expands its own form, select_and_scatter, into passes over arrays of indices."""
    open_windows = jnp.ones(y.shape, bool)
    gradients = []
    for v in shifts(x, window, stride, padding, fill=-jnp.inf):
        largest = open_windows & (v == y)
        open_windows &= ~largest
        gradients.append(jnp.where(largest, g, 0))
    return jax.linear_transpose(lambda x: shifts(x, window, stride, padding), x)(gradients)[0]


_pool_p = primitive("max_pool", _plain)
_pick_p = primitive("max_pool_pick", _pick_plain)
_spread_p = primitive("max_pool_spread", _spread_plain, cpu=_spread_by_shifts)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **where: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    y = _pool_p.bind(x, **where)
    return y, _pick_p.bind(t, x, y, **where)


def _linear(operation: Primitive, transpose: Primitive) -> None:
    """Derivatives of a primitive that is linear in its first argument, piecewise constant in the two others."""

    def transposed(ct: Any, _: Any, x: jax.Array, y: jax.Array, **where: Any) -> list[Any]:
        return [None if isinstance(ct, ad.Zero) else transpose.bind(ct, x, y, **where), None, None]

    ad.defjvp(operation, lambda t, _, x, y, **where: operation.bind(t, x, y, **where), None, None)
    ad.primitive_transposes[operation] = transposed


ad.primitive_jvps[_pool_p] = _jvp
_linear(_pick_p, _spread_p)
_linear(_spread_p, _pick_p)
