"""Operations of which several form a whole, in other parts on one platform than on another."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching

from eca_jax.kernels.platform import Form, apply, primitive


class Choice:
    """An operation in the form of the platform that it is lowered for, and with it everything JAX derives from it.

    Derivatives of any order and direction, and batches, choose by the platform too. So on one platform operations may
    hand each other what they do not on another. `primitive` does not allow that: its batches are the plain form's.

    Args:
      plain: (*arrays, **parameters) -> tuple of arrays; parameters are hashable.
      transposes: of platforms' forms, (arrays, cotangents, **parameters) -> gradients; by default autodiff's.
      **forms: of platforms, `plain` elsewhere; with the same shapes and dtypes, not always with the same values.
    """

    def __init__(self, name: str, plain: Form, transposes: Mapping[str, Form] | None = None, **forms: Form) -> None:
        self.name, self.plain, self.transposes, self.forms = name, plain, transposes or {}, forms
        self.operation: core.Primitive = primitive(name, plain, multiple_results=True, **forms)
        ad.primitive_jvps[self.operation] = self._jvp
        batching.primitive_batchers[self.operation] = self._batch

    def __call__(self, *arrays: jax.Array, **parameters: Hashable) -> Sequence[jax.Array]:
        return apply(self.operation, *arrays, **parameters)

    def _jvp(self, primals: Sequence[Any], tangents: Sequence[Any], /, **parameters: Hashable) -> tuple[Any, Any]:
        values = self.operation.bind(*primals, **parameters)
        zeros = map(ad.instantiate_zeros, tangents)
        return values, self._tangents.operation.bind(*primals, *zeros, **parameters)

    def _batch(self, arrays: Sequence[Any], axes: Sequence[Any], /, **parameters: Hashable) -> tuple[Any, Any]:
        leading = [v if axis is None else jnp.moveaxis(v, axis, 0) for v, axis in zip(arrays, axes, strict=True)]
        axes = tuple(None if axis is None else 0 for axis in axes)
        out = self._batched.operation.bind(*leading, axes=axes, parameters=_frozen(parameters))
        return out, [0] * len(out)

    @cached_property
    def _tangents(self) -> "Choice":
        """(*arrays, *tangents) -> tangents of the results."""
        choice = self._derived("tangents", _tangents)

        def transpose(cotangents: Sequence[Any], *arrays: Any, **parameters: Hashable) -> list[Any]:
            primals, tangents = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
            cotangents = [ad.instantiate_zeros(v) for v in cotangents]
            count, frozen = len(primals), _frozen(parameters)
            found = self._gradients.operation.bind(*primals, *cotangents, count=count, parameters=frozen)
            wanted = [v if ad.is_undefined_primal(t) else None for v, t in zip(found, tangents, strict=True)]
            return [None] * len(primals) + wanted

        ad.primitive_transposes[choice.operation] = transpose
        return choice

    @cached_property
    def _gradients(self) -> "Choice":
        """(*arrays, *cotangents of the results) -> cotangents of the arrays."""
        own = {platform: _gradients(transpose) for platform, transpose in self.transposes.items()}
        return self._derived("gradients", lambda form: _gradients(partial(_autodiff, form)), own)

    @cached_property
    def _batched(self) -> "Choice":
        return self._derived("batched", _batched)

    def _derived(self, what: str, derive: Callable[[Form], Form], own: Mapping[str, Form] | None = None) -> "Choice":
        forms = {platform: derive(form) for platform, form in self.forms.items()}
        return Choice(f"{self.name}_{what}", derive(self.plain), None, **{**forms, **(own or {})})


def _frozen(parameters: dict[str, Hashable]) -> tuple[tuple[str, Hashable], ...]:
    return tuple(sorted(parameters.items()))


def _tangents(form: Form) -> Form:
    def tangents(*arrays: jax.Array, **parameters: Hashable) -> Sequence[jax.Array]:
        half = len(arrays) // 2
        return jax.jvp(partial(form, **parameters), arrays[:half], arrays[half:])[1]

    return tangents


def _autodiff(form: Form, arrays: Sequence[Any], cotangents: Sequence[Any], **parameters: Hashable) -> Any:
    return jax.vjp(partial(form, **parameters), *arrays)[1](tuple(cotangents))


def _gradients(transpose: Form) -> Form:
    def gradients(*arrays: jax.Array, count: int, parameters: Any) -> Sequence[jax.Array]:
        return transpose(arrays[:count], arrays[count:], **dict(parameters))

    return gradients


def _batched(form: Form) -> Form:
    def batched(*arrays: jax.Array, axes: tuple[int | None, ...], parameters: Any) -> Sequence[jax.Array]:
        return jax.vmap(partial(form, **dict(parameters)), in_axes=axes)(*arrays)

    return batched
