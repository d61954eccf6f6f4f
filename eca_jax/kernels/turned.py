"""Groups of consecutive examples turned round."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from eca_jax.kernels.platform import apply, primitive

# The examples that a TPU turns with one product, where a group has no more: its matrix unit's side, and its lanes.
_SIDE = 128


def turned(x: jax.Array, group: int) -> jax.Array:
    """x [N, ...] with each `group` of consecutive rows in the opposite order; N is a multiple of it. No derivatives.

    The rows are taken to lie evenly on all devices that the program is for. A TPU keeps images with their examples
    along the lanes, and there uint8 ones are turned by a product with a permutation, which is exact: a reversal takes
    them out of that layout and back. Figures: BENCHMARKS.md, "What the recipe `rsb_a2` adds to a step".
    """
    return apply(_turned_p, x, group=group)


def _reversed(x: jax.Array, *, group: int) -> jax.Array:
    return x.reshape(-1, group, *x.shape[1:])[:, ::-1].reshape(x.shape)


def by_product(x: jax.Array, *, group: int, devices: int) -> jax.Array:
    """`turned` as a TPU does it, of x with at least two axes on so many `devices`."""
    rows = x.shape[0] // devices
    if x.dtype != jnp.uint8 or x.ndim < 2 or x.shape[0] % devices or rows % group:
        return _reversed(x, group=group)
    # Whole groups of one device, so that nothing is communicated.
    side = group * max(n for n in range(1, max(_SIDE // group, 1) + 1) if rows // group % n == 0)
    row = np.arange(side)
    permutation = jnp.asarray(np.eye(side)[row // group * group + group - 1 - row % group], jnp.bfloat16)
    # Whole numbers up to 255 have a place in bfloat16, and each sum has one term.
    parts = x.reshape(-1, side, *x.shape[1:]).astype(jnp.bfloat16)
    return jnp.einsum("gm...,mp->gp...", parts, permutation).astype(x.dtype).reshape(x.shape)


_turned_p = primitive("turned", _reversed)


def _on_tpu(context: mlir.LoweringRuleContext, x: Any, *, group: int) -> Any:
    aval: Any = context.avals_in[0]
    # Where the context has no number, as if each row had a device of its own: nothing is sure to lie together.
    devices = getattr(context.module_context.axis_context, "num_devices", None) or aval.shape[0]
    return mlir.lower_fun(functools.partial(by_product, devices=devices), False)(context, x, group=group)


mlir.register_lowering(_turned_p, _on_tpu, platform="tpu")
