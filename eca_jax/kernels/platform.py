"""Operations whose form depends on the platform that a program is lowered for, as primitives of JAX.

A traced program holds the operation by name; only the lowering, which knows its platform, puts a form in its place. So
one trace serves every platform, and no trace can carry the form of another one.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import batching, mlir, xla

# (*arrays, **parameters) -> array, or a sequence of arrays where the primitive has several results.
Form = Callable[..., Any]
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_PLAIN: dict[core.Primitive, Form] = {}


def primitive(name: str, plain: Form, *, multiple_results: bool = False, **forms: Form) -> core.Primitive:
    """A primitive that is lowered as `plain`, or as a form of its own on the platforms that `forms` names.

    All forms compute the same function; parameters must be hashable. `jax.vmap` takes the plain form. Derivatives are
    for the caller to define, by `jax.interpreters.ad`; `apply` is how to call it.

    Args:
      plain, forms: traceable functions (*arrays, **parameters); keywords are some of `PLATFORMS`.
    """
    operation = core.Primitive(name)
    operation.multiple_results = multiple_results
    _PLAIN[operation] = plain
    operation.def_impl(partial(xla.apply_primitive, operation))

    @cache
    def results(arrays: tuple[Any, ...], parameters: tuple[tuple[str, Hashable], ...]) -> list[Any]:
        return jax.make_jaxpr(partial(plain, **dict(parameters)))(*arrays).out_avals

    @operation.def_abstract_eval
    def _(*arrays: Any, **parameters: Hashable) -> Any:
        found = results(arrays, tuple(sorted(parameters.items())))
        return found if multiple_results else found[0]

    def batch(arrays: Sequence[Any], axes: Sequence[Any], **parameters: Hashable) -> tuple[Any, Any]:
        out = jax.vmap(partial(plain, **parameters), in_axes=tuple(axes))(*arrays)
        return out, [0] * len(out) if multiple_results else 0

    batching.primitive_batchers[operation] = batch
    mlir.register_lowering(operation, mlir.lower_fun(plain, multiple_results))
    # One rule for each: JAX 0.10 takes the wrong branch within a rule that serves two platforms of a program for three.
    for platform in PLATFORMS:
        form = forms.get(platform, plain)
        mlir.register_lowering(operation, mlir.lower_fun(form, multiple_results), platform=platform)
    return operation


def apply(operation: core.Primitive, *arrays: jax.Array, **parameters: Hashable) -> Any:
    """The operation on arrays; its plain form inside `jax.shard_map`, which asks more of a primitive than this."""
    if jax.sharding.get_abstract_mesh().manual_axes:
        return _PLAIN[operation](*arrays, **parameters)
    return operation.bind(*arrays, **parameters)


def _by_platform(*leaves: jax.Array, plain: Form, cpu: Form) -> Sequence[jax.Array]:
    return plain(*leaves)


def _by_platform_on_cpu(*leaves: jax.Array, plain: Form, cpu: Form) -> Sequence[jax.Array]:
    return cpu(*leaves)


_by_platform_p = primitive("by_platform", _by_platform, multiple_results=True, cpu=_by_platform_on_cpu)


def by_platform(*arguments: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """cpu(*arguments) where the program is lowered for a CPU, default(*arguments) elsewhere; no derivatives.

    Both take and return trees of the same arrays. `lax.platform_dependent` does as much, but a program for several
    platforms then holds each branch in the forms of all of them.
    """
    leaves, tree = jax.tree.flatten(arguments)
    out_tree = jax.tree.structure(jax.eval_shape(default, *arguments))

    def flat(function: Callable[..., Any]) -> Form:
        return lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

    return jax.tree.unflatten(out_tree, _by_platform_p.bind(*leaves, plain=flat(default), cpu=flat(cpu)))
