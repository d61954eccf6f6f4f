"""Convolutions and pooling in the form that is fast on the platform the program is compiled for.

Every function computes what its `jax.lax` namesake computes; only the form differs. GPU and TPU get
`lax.conv_general_dilated` and `lax.reduce_window` untouched.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from eca_jax.kernels import cpu as lowering_cpu

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


def compiler_options() -> dict[str, str]:
    """What to pass to `jax.jit(..., compiler_options=)`, so that the program runs at its full speed.

    On CPU it keeps XLA from handing convolutions to YNNPACK, as jaxlib 0.10 does unasked: Eigen's take half the time
    for kernel gradients, which also lose two digits to YNNPACK, and two thirds for a stem. Matrix products and
    reductions stay with YNNPACK.
    """
    if target_platform() != "cpu":
        return {}
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


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
    stride, padding, dilation = _pair(stride), _pads(padding), _pair(dilation)
    if target_platform() == "cpu":
        wide = jnp.promote_types(x.dtype, jnp.float32)  # a CPU has no fast kernels for 16 bits
        y = lowering_cpu.conv2d(x.astype(wide), kernel.astype(wide), stride, padding, dilation, groups)
        return y.astype(x.dtype)
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        stride,
        padding,
        rhs_dilation=dilation,
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
    window, stride, padding = _pair(window), _pair(stride), _pads(padding)
    if target_platform() == "cpu":
        return lowering_cpu.max_pool(x, window, stride, padding)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), ((0, 0), *padding, (0, 0)))


def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """relu(x + y), the end of a residual block, for arrays of one shape."""
    return lowering_cpu.add_relu(x, y) if target_platform() == "cpu" else jax.nn.relu(x + y)


def compute_once(x: jax.Array) -> jax.Array:
    """x, which several operations read. On CPU each of them would compute it again (`lowering_cpu.compute_once`)."""
    return lowering_cpu.compute_once(x) if target_platform() == "cpu" else x


def in_parts(network: Callable[[jax.Array], Any], images: jax.Array) -> Any:
    """network(images), arrays [N, ...] of images [N, ...] that do not depend on each other.

    On one CPU a few images at a time go through the whole network (`lowering_cpu.in_parts`).
    """
    if target_platform() == "cpu" and jax.local_device_count() == 1:
        return lowering_cpu.in_parts(network, images)
    return network(images)
