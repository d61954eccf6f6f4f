"""ECA against its definition written out in numpy, and the folded form against the layer by layer one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eca_jax.kernels import one_filter
from eca_jax.layers import ECA, SE, BatchNorm, Conv, conv_norm_gate, eca_kernel_size

KERNEL_SIZES = {16: 3, 32: 3, 64: 3, 112: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 1536: 5, 2048: 7, 4096: 7}


@pytest.mark.parametrize(("channels", "kernel_size"), KERNEL_SIZES.items())
def test_adaptive_kernel_size_is_the_papers(channels, kernel_size):
    assert eca_kernel_size(channels) == kernel_size


def test_kernel_size_of_no_channels_is_an_error():
    with pytest.raises(ValueError, match="positive"):
        eca_kernel_size(0)


def eca_by_hand(x, kernel, circular=False):
    """Equation 9 with loops: pad the means of the channels, slide the kernel along them, sigmoid, scale."""
    pad = len(kernel) // 2
    means = np.pad(x.mean((1, 2)), ((0, 0), (pad, pad)), mode="wrap" if circular else "constant")
    z = np.stack([means[:, c : c + len(kernel)] @ kernel for c in range(x.shape[-1])], axis=1)
    return x / (1 + np.exp(-z))[:, None, None, :]


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3, 7, None])
def test_eca_is_its_definition(kernel_size, circular):
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 48))
    layer = ECA(kernel_size, circular=circular)
    variables = layer.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    kernel = variables["params"]["conv"]["kernel"]
    assert kernel.shape == (kernel_size or 3, 1, 1)
    y = layer.apply(variables, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(y, eca_by_hand(x, np.asarray(kernel[:, 0, 0]), circular), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel_size", [4, 0, -1])
def test_a_kernel_size_that_is_not_odd_is_an_error(kernel_size):
    with pytest.raises(ValueError, match=f"kernel_size must be odd and 1 or more, got {kernel_size}"):
        ECA(kernel_size).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8)))


def test_eca_pools_in_float32_under_bfloat16():
    """Sums of 3,136 bfloat16 values kept in bfloat16 would stall at 256."""
    x = jnp.ones((1, 56, 56, 8), jnp.bfloat16)
    layer = ECA(1)
    y = layer.apply({"params": {"conv": {"kernel": jnp.ones((1, 1, 1))}}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), 1 / (1 + np.exp(-1.0)), rtol=4e-3)


class Unit(nn.Module):
    """Convolution, BatchNorm and gate, as at the end of a residual block."""

    gate: type
    kernel_size: int = 1
    stride: int = 1
    group_size: int | None = None
    fold: bool = True

    @nn.compact
    def __call__(self, x, train):
        conv = Conv(24, self.kernel_size, self.stride, name="conv")
        norm = BatchNorm(group_size=self.group_size, name="bn")
        return conv_norm_gate(x, conv, norm, self.gate(fast=self.fold, name="gate"), train=train, fold=self.fold)


def assert_close(actual, expected, relative):
    for (path, a), e in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        scale = np.abs(e).max()
        assert np.abs(a - e).max() <= relative * scale, (jax.tree_util.keystr(path), np.abs(a - e).max() / scale)


@pytest.mark.parametrize("gate", [ECA, SE])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("group_size", [None, 2])
def test_folded_form_equals_the_layers_one_after_another(gate, kernel_size, stride, group_size):
    keys = jax.random.split(jax.random.key(1), 4)
    x = jax.random.normal(keys[0], (4, 9, 7, 16)) + 0.5
    target = jax.random.normal(keys[1], Unit(gate, kernel_size, stride).init_with_output(keys[2], x, False)[0].shape)
    variables = Unit(gate, kernel_size, stride).init(keys[2], x, False)
    variables = jax.tree.map(lambda v: v + 0.3 * jnp.abs(jax.random.normal(keys[3], v.shape)), variables)

    def loss(params, x, fold):
        unit = Unit(gate, kernel_size, stride, group_size, fold)
        y, updates = unit.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(y - target)), (y, updates)

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    assert_close(run(variables["params"], x, True), run(variables["params"], x, False), 1e-5)
    inference = [Unit(gate, kernel_size, stride, group_size, fold).apply(variables, x, False) for fold in (True, False)]
    assert_close(*inference, 1e-5)


@pytest.mark.parametrize("circular", [False, True])
def test_one_filter_and_its_gradients_are_those_of_a_convolution(circular):
    random = np.random.default_rng(0)
    z, weights = (jnp.asarray(random.normal(size=(3, 12)), jnp.float32) for _ in range(2))
    taps = jnp.asarray([0.5, -1.0, 2.0, 0.25, -0.125])

    def by_convolution(z, taps):
        padded = jnp.pad(z, ((0, 0), (2, 2)), mode="wrap" if circular else "constant")
        return jnp.stack([jnp.convolve(row, taps[::-1], mode="valid", precision="highest") for row in padded])

    for ours, theirs in zip(
        jax.value_and_grad(lambda *x: jnp.sum(weights * one_filter(*x, circular)), argnums=(0, 1))(z, taps),
        jax.value_and_grad(lambda *x: jnp.sum(weights * by_convolution(*x)), argnums=(0, 1))(z, taps),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
