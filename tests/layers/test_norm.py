"""BatchNorm against PyTorch's rule written out, whole-batch and in groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.layers import BatchNorm


def normalise(x, epsilon=1e-5):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + epsilon), mean, x.var((0, 1, 2), ddof=1)


@pytest.mark.parametrize("group_size", [None, 8, 4, 2])
def test_each_group_is_normalised_by_itself_and_running_statistics_combine(group_size):
    x = np.random.default_rng(0).normal(1.0, 3.0, size=(8, 3, 5, 6))
    layer = BatchNorm(group_size=group_size)
    variables = layer.init(jax.random.key(0), jnp.asarray(x), True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0.0)
    y, updates = layer.apply(variables, jnp.asarray(x, jnp.float32), True, mutable=["batch_stats"])

    groups = [normalise(g) for g in np.split(x, 8 // (group_size or 8))]
    np.testing.assert_allclose(y, np.concatenate([g[0] for g in groups]), rtol=1e-4, atol=1e-5)
    mean, var = np.mean([g[1] for g in groups], 0), np.mean([g[2] for g in groups], 0)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_running_statistics_are_used_and_kept_at_inference():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 4)), jnp.float32)
    stats = {"mean": jnp.arange(4.0), "var": jnp.arange(1.0, 5.0)}
    params = {"scale": jnp.arange(2.0, 6.0), "bias": jnp.ones(4)}
    y = BatchNorm().apply({"params": params, "batch_stats": stats}, x, False)
    expected = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * params["scale"] + 1
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_statistics_are_float32_under_bfloat16():
    x = jnp.full((16, 32, 32, 1), 1.0, jnp.bfloat16).at[::2].set(1.0078125)
    layer = BatchNorm(dtype=jnp.bfloat16)
    y, updates = layer.apply(layer.init(jax.random.key(0), x, False), x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert updates["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * 1.00390625, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "group_size", "message"), [((6, 2, 2, 1), 4, "split"), ((2, 1, 1, 3), 1, "one value")]
)
def test_impossible_groups_are_errors(shape, group_size, message):
    layer = BatchNorm(group_size=group_size)
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), jnp.zeros(shape), True)
