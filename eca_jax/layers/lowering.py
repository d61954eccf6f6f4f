"""Convolutions and pooling in the form that is fast on the platform the program is compiled for.

Every function computes what its `jax.lax` namesake computes; only the form differs. GPU and TPU get
`lax.conv_general_dilated` and `lax.reduce_window` untouched.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target_platform", default=None)


def target_platform() -> str:
    """The platform that programs are being traced for: "cpu", "gpu" or "tpu"."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def compile_for(platform: str) -> Iterator[None]:
    """Trace for `platform` inside the context, whatever device is here (ahead-of-time compilation)."""
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _pads(padding: int | Sequence[Sequence[int]]) -> tuple[tuple[int, int], tuple[int, int]]:
    return ((padding, padding),) * 2 if isinstance(padding, int) else tuple(map(tuple, padding))


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[tuple[int, int], tuple[int, int]] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> jax.Array:
    """2-D convolution of x [N,H,W,C] with kernel [kh,kw,C/groups,F]: [N,H',W',F] of x's dtype."""
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=_pair(stride),
        padding=_pads(padding),
        rhs_dilation=_pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def max_pool(
    x: jax.Array,
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[tuple[int, int], tuple[int, int]] = 0,
) -> jax.Array:
    """Largest value of each window of x [N,H,W,C]; the padding is -inf, as in PyTorch."""
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, *_pair(window), 1),
        (1, *_pair(stride), 1),
        ((0, 0), *_pads(padding), (0, 0)),
    )
