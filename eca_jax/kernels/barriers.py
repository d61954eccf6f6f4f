"""Where a compiler would compute something again, or inside something else, and it pays to keep it from that.

Each function returns what it is given. BENCHMARKS.md, "Where programs are kept apart", has the figures.
"""

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core
from jax.interpreters import ad, batching

from eca_jax.kernels.platform import apply, primitive


def compute_once(x: jax.Array) -> jax.Array:
    """x, which several operations read. XLA's fusion for a CPU would compute it again for each of them."""
    return apply(_compute_once_p, x)


def compute_apart(x: jax.Array) -> jax.Array:
    """x, computed by a program of its own on a TPU, where XLA would run it inside the programs that read it."""
    return apply(_compute_apart_p, x)


def in_memory(x: jax.Array) -> jax.Array:
    """x, written to memory: a call that is not inlined ends the fusion of XLA's CPU backend.

    An optimization barrier does not, there; it only gives the call a body.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(lax.optimization_barrier)(x)


def _unchanged(x: jax.Array) -> jax.Array:
    return x


def _identity(operation: core.Primitive) -> core.Primitive:
    """Tangents pass, and so do batches."""
    ad.primitive_jvps[operation] = lambda primals, tangents: (operation.bind(*primals), *tangents)
    batching.defvectorized(operation)
    return operation


_compute_once_p = _identity(primitive("compute_once", _unchanged, cpu=in_memory))
_compute_apart_p = _identity(primitive("compute_apart", _unchanged, tpu=lax.optimization_barrier))
