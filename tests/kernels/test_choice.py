"""An operation that chooses its form by platform, with all that JAX derives from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.kernels.choice import Choice

X, Y = jnp.arange(1.0, 7.0).reshape(2, 3), jnp.linspace(-1.0, 1.0, 3)

# Two halves of x^3 y: off the CPU all of it in the second, so that neither is right beside the other platform's.
first = Choice("first", lambda x: (jnp.zeros_like(x),), cpu=lambda x: (x * x,))
second = Choice(
    "second",
    lambda part, x, y, *, power: (jnp.power(x, jnp.float32(power)) * y,),
    {"cpu": lambda arrays, g, power: jax.vjp(lambda part, x, y: (part * x * y,), *arrays)[1](g)},
    cpu=lambda part, x, y, *, power: (part * x * y,),
)


def halves(x, y):
    return second(first(x)[0], x, y, power=3)[0]


def whole(x, y):
    return x**3 * y


DERIVED = {
    "value": lambda f: f,
    "gradient": lambda f: jax.grad(lambda x, y: f(x, y).sum(), argnums=(0, 1)),
    "tangent": lambda f: lambda x, y: jax.jvp(f, (x, y), (2 * x, y))[1],
    "gradient of a gradient": lambda f: jax.grad(
        lambda x, y: (jax.grad(lambda y: f(x, y).sum())(y) ** 2).sum(), argnums=(0, 1)
    ),
    "hessian": lambda f: jax.hessian(lambda x, y: f(x, y).sum()),
    "batch": lambda f: jax.vmap(f, (0, None)),
    "batch of what only one half reads": lambda f: lambda x, y: jax.vmap(f, (None, 0))(x, jnp.stack([y, 2 * y])),
    "gradients of a batch": lambda f: lambda x, y: jax.vmap(jax.grad(lambda x: f(x, y).sum()))(x),
    "gradient of a batch": lambda f: jax.grad(lambda x, y: jax.vmap(f, (0, None))(x, y).sum(), argnums=(0, 1)),
    "recomputed": lambda f: jax.grad(lambda x, y: jax.checkpoint(f)(x, y).sum()),
}


@pytest.mark.parametrize("derived", DERIVED)
def test_what_is_derived_is_that_of_the_whole(derived):
    found, expected = (jax.jit(DERIVED[derived](f))(X, Y) for f in (halves, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected)


@pytest.mark.parametrize("derived", ["value", "gradient", "tangent", "batch", "gradients of a batch"])
def test_it_is_lowered_in_the_form_of_each_platform(derived):
    traced = jax.jit(DERIVED[derived](halves)).trace(X, Y)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda", "tpu")}
    assert [platform for platform, text in texts.items() if "stablehlo.power" in text] == ["cuda", "tpu"]
