"""Pooling, residual sums and means equal XLA's own: values and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_close, values_and_gradients
from jax import lax

from eca_jax.kernels import add_relu, compute_apart, compute_once, max_pool, means, one_filter
from eca_jax.kernels.conv import pads, pair


def xla_max_pool(x, window, stride, padding):
    window, stride = (1, *pair(window), 1), (1, *pair(stride), 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, stride, ((0, 0), *pads(padding), (0, 0)))


@pytest.mark.parametrize(
    "window, stride, padding",
    [(3, 2, 1), (2, 2, 0), (3, 2, ((0, 1), (0, 1))), ((2, 3), (1, 2), ((1, 0), (0, 1)))],
)
def test_max_pool_equals_xlas_own_also_where_values_tie(window, stride, padding):
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, 9, 8, 3)))  # half of it zeros
    ours = values_and_gradients(lambda x: max_pool(x, window, stride, padding), x)
    assert_close(ours, values_and_gradients(lambda x: xla_max_pool(x, window, stride, padding), x), 1e-6)


def test_max_pool_pads_with_less_than_any_value():
    assert max_pool(-jnp.ones((1, 4, 4, 1)), 3, 2, 1).max() == -1


def test_add_relu_is_relu_of_the_sum():
    x, y = (jax.random.normal(jax.random.key(i), (50, 40)) for i in range(2))
    y = y.at[:10].set(-x[:10]).at[10:20].set(0)  # sums of exactly zero, and sums of one term
    ours = values_and_gradients(add_relu, x, y)
    for a, b in zip(ours, values_and_gradients(lambda x, y: jax.nn.relu(x + y), x, y), strict=True):
        np.testing.assert_array_equal(a, b)


def test_means_are_those_of_examples_and_of_groups():
    x = jax.random.normal(jax.random.key(0), (3, 2, 5, 7, 4))
    for axes, found in zip(((2, 3), (1, 2, 3)), means(x), strict=True):
        np.testing.assert_allclose(found, x.mean(axes), atol=1e-6)
    gradient = jax.grad(lambda x: sum(jnp.sum(m**2) for m in means(x)))(x)
    plain = jax.grad(lambda x: jnp.sum(x.mean((2, 3)) ** 2) + jnp.sum(x.mean((1, 2, 3)) ** 2))(x)
    np.testing.assert_allclose(gradient, plain, atol=1e-7)


# Each with the same function in XLA's operations, or the identity.
PAIRS = {
    "max_pool": (lambda x: max_pool(x, 3, 2, 1), lambda x: xla_max_pool(x, 3, 2, 1)),
    "add_relu": (lambda x: add_relu(x, x[::-1]), lambda x: jax.nn.relu(x + x[::-1])),
    "means": (lambda x: jnp.sum(means(x[None])[0], 1) + means(x[None])[1], lambda x: x.sum(0).mean((0, 1)) * 1.5),
    "one_filter": (
        lambda x: one_filter(x[..., 0, 0], x[0, :3, 0, 0], True),
        lambda x: sum(jnp.roll(x[..., 0, 0], 1 - i, 1) * x[0, i, 0, 0] for i in range(3)),
    ),
    "compute_once": (compute_once, lambda x: x),
    "compute_apart": (compute_apart, lambda x: x),
}


@pytest.mark.parametrize("name", PAIRS)
def test_forward_mode_second_derivatives_and_batches(name):
    x, t = jax.random.normal(jax.random.key(0), (2, 2, 6, 6, 3))

    def derivatives(function):
        def loss(x):
            return jnp.mean(function(x) ** 3)

        def slope(x):
            return jax.jvp(loss, (x,), (t,))[1]

        return slope(x), jax.grad(slope)(x), jax.vmap(jax.grad(loss))(jnp.stack([x, t]))

    ours, theirs = (jax.jit(lambda function=function: derivatives(function))() for function in PAIRS[name])
    assert_close(ours, theirs, 1e-5)
