"""The two means that a BatchNorm with a gate behind it needs: of each example, and of a group of examples."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from eca_jax.kernels.platform import Form, apply, primitive
from eca_jax.kernels.xla_conv import Shape


def means(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means of x [G,N,H,W,C] over height and width, [G,N,C], and over a group as well, [G,C].

    A TPU makes both in the pass that writes x; the mean of the first would be a program of its own there. Elsewhere
    the second, taken of x, would be another pass over x. Figures: BENCHMARKS.md, "Where programs are kept apart".
    """
    return tuple(apply(_means_p, x))


def _one_of_the_other(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    of_examples = jnp.mean(x, axis=(2, 3))
    return of_examples, jnp.mean(of_examples, axis=1)


def _side_by_side(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.mean(x, axis=(2, 3)), jnp.mean(x, axis=(1, 2, 3))


def _transposed(form: Form) -> Form:
    def transpose(*cotangents: jax.Array, shape: Shape) -> jax.Array:
        x = jax.ShapeDtypeStruct(shape, cotangents[0].dtype)
        return jax.linear_transpose(form, x)(cotangents)[0]

    return transpose


_means_p = primitive("means", _one_of_the_other, multiple_results=True, tpu=_side_by_side)
_spread_p = primitive("means_spread", _transposed(_one_of_the_other), tpu=_transposed(_side_by_side))


def _means_transpose(cotangents: Sequence[Any], x: Any) -> list[jax.Array]:
    return [_spread_p.bind(*map(ad.instantiate_zeros, cotangents), shape=x.aval.shape)]


ad.deflinear2(_means_p, _means_transpose)
ad.deflinear2(_spread_p, lambda x, *_, shape: _means_p.bind(x))
