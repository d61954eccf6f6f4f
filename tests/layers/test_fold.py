"""The folded forms against their definitions; tests/layers/test_attention.py holds the gates themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eca_jax.kernels import max_pool
from eca_jax.layers.fold import norm_relu_pool
from eca_jax.layers.norm import BatchNorm


class Stem(nn.Module):
    pool_first: bool

    @nn.compact
    def __call__(self, x, train):
        norm = BatchNorm(group_size=2, name="bn")
        return norm_relu_pool(x, norm, train) if self.pool_first else max_pool(nn.relu(norm(x, train)), 3, 2, 1)


@pytest.mark.parametrize("train", [True, False])
def test_pooling_before_the_normalisation_equals_pooling_after_it(train):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(0.3, 2.0, (4, 9, 10, 6)), jnp.float32)
    weights = jnp.asarray(random.normal(size=(4, 5, 5, 6)), jnp.float32)
    params = {"bn": {"scale": jnp.asarray([1, -1, 0.5, -0.2, 2, -3.0]), "bias": jnp.linspace(-1, 1, 6)}}
    batch_stats = {"bn": {"mean": jnp.linspace(-1, 1, 6), "var": jnp.arange(1.0, 7.0)}}

    def run(pool_first):
        def loss(params, x):
            variables = {"params": params, "batch_stats": batch_stats}
            y, updates = Stem(pool_first).apply(variables, x, train, mutable=["batch_stats"])
            return jnp.sum(weights * y), (y, updates)

        gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return gradients, outputs

    def assert_near(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())

    jax.tree.map(assert_near, run(True), run(False))
