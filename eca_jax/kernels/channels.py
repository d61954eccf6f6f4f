"""A convolution along the channels of pooled descriptors with one filter, ECA's, as shifted multiply-adds.

Three primitives, each bilinear and each the transpose of the others, as in `conv`. The form is the same everywhere:
it takes half the cycles of `lax.conv_general_dilated` on a TPU (BENCHMARKS.md, "Where programs are kept apart"). With
autodiff's own transpose each tap's gradient would be a pass of its own; here all come from the same shifts.
"""

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from eca_jax.kernels.platform import apply, primitive


def one_filter(z: jax.Array, taps: jax.Array, circular: bool) -> jax.Array:
    """The convolution of float32 z [N, C] along C with a single filter [k], k odd: float32 [N, C].

    Channels beyond the ends count as zero, or wrap around where `circular`.
    """
    return apply(_forward_p, z, taps, circular=circular)


def _shifts(z: jax.Array, count: int, circular: bool) -> list[jax.Array]:
    """z moved along its channels by -(count // 2), ..., count // 2 places."""
    pad, channels = count // 2, z.shape[1]
    z = jnp.pad(z, ((0, 0), (pad, pad)), mode="wrap" if circular else "constant")
    return [z[:, i : i + channels] for i in range(count)]


def _forward(z: jax.Array, taps: jax.Array, *, circular: bool) -> jax.Array:
    return sum(tap * v for tap, v in zip(taps, _shifts(z, len(taps), circular), strict=True))


def _input_gradient(g: jax.Array, taps: jax.Array, *, circular: bool) -> jax.Array:
    return sum(tap * v for tap, v in zip(taps, _shifts(g, len(taps), circular)[::-1], strict=True))


def _filter_gradient(z: jax.Array, g: jax.Array, *, circular: bool, count: int) -> jax.Array:
    return jnp.stack([jnp.sum(v * z) for v in _shifts(g, count, circular)[::-1]])


_forward_p = primitive("one_filter", _forward)
_input_gradient_p = primitive("one_filter_input_gradient", _input_gradient)
_filter_gradient_p = primitive("one_filter_filter_gradient", _filter_gradient)

ad.defbilinear(
    _forward_p,
    lambda g, z, taps, *, circular: _input_gradient_p.bind(g, taps, circular=circular),
    lambda g, z, taps, *, circular: _filter_gradient_p.bind(z, g, circular=circular, count=taps.aval.shape[0]),
)
ad.defbilinear(
    _input_gradient_p,
    lambda z, g, taps, *, circular: _forward_p.bind(z, taps, circular=circular),
    lambda z, g, taps, *, circular: _filter_gradient_p.bind(z, g, circular=circular, count=taps.aval.shape[0]),
)
ad.defbilinear(
    _filter_gradient_p,
    lambda taps, z, g, *, circular, count: _input_gradient_p.bind(g, taps, circular=circular),
    lambda taps, z, g, *, circular, count: _forward_p.bind(z, taps, circular=circular),
)
