"""A convolution whose BatchNorm takes its statistics from the convolution's input, against the definition.

The form is for TPUs; here it is traced for one and run on this machine, which rounds differently and computes the same.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eca_jax import kernels
from eca_jax.layers import ECA, SE
from eca_jax.layers.conv import Conv
from eca_jax.layers.fold import conv_norm_gate
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.resnet import Bottleneck

GATES = {"plain": None, "eca": partial(ECA, kernel_size=3, name="gate"), "se": partial(SE, reduction=4, name="gate")}


class Unit(nn.Module):
    gate: object
    group_size: int | None
    fold: bool = True

    @nn.compact
    def __call__(self, x, train=True):
        conv, norm = (
            Conv(32, 1, dtype=x.dtype, name="conv"),
            BatchNorm(group_size=self.group_size, dtype=x.dtype, name="bn"),
        )
        gate = self.gate and self.gate()
        return conv_norm_gate(x, conv, norm, gate, train=train, fold=self.fold)


def values_and_gradients(model, x, platform=None, weights=None):
    """(output, running statistics, gradients of parameters and input for the output's weights, variables)."""
    variables = model.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda v: v + 0.1 * jnp.arange(v.size).reshape(v.shape) / v.size, variables)

    def loss(params, x):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        y, changed = model.apply(state, x, train=True, mutable=["batch_stats"])
        w = np.random.default_rng(1).normal(size=y.shape) if weights is None else weights
        return jnp.sum(jnp.asarray(w, jnp.float32) * y), (y, changed)

    with kernels.compiling_for(platform):
        run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        gradients, (y, changed) = run(variables["params"], x)
    return y, changed, gradients, variables


def assert_near(found, expected, bound):
    def near(a, b):
        np.testing.assert_array_less(np.max(np.abs(a - b)), bound * np.max(np.abs(b)) + 1e-12)

    jax.tree.map(near, found, expected)


@pytest.mark.parametrize("size", [5, 8], ids=["again", "by products"])
@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize("gate", GATES)
def test_values_statistics_and_gradients_are_the_definitions(gate, group_size, size):
    """Both ways to the gradient of a gate's coefficients are met: 25 positions of 8 channels, and 64."""
    x = jnp.asarray(np.random.default_rng(0).normal(0.5, 1.0, (4, size, size, 8)), jnp.float32)
    expected = values_and_gradients(Unit(GATES[gate], group_size, fold=False), x)
    found = values_and_gradients(Unit(GATES[gate], group_size), x, "tpu")
    assert_near(found[0], expected[0], 1e-5)
    assert_near(found[1], expected[1], 1e-6)
    assert_near(found[2], expected[2], 1e-5)


@pytest.mark.parametrize("gate", ["plain", "eca"])
def test_a_block_with_its_projected_shortcut_is_the_definitions(gate):
    """Convolutions of 1x1 behind and beside a 3x3, two BatchNorms of this form, and the residual sum."""

    class Network(nn.Module):
        fold: bool

        @nn.compact
        def __call__(self, x, train=True):
            norm = partial(BatchNorm, group_size=2)
            block = Bottleneck((8, 8, 32), 1, Conv, norm, GATES[gate], fold=self.fold, name="block")
            return block(x, train)

    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, 6, 6, 8)), jnp.float32)
    expected = values_and_gradients(Network(fold=False), x)
    found = values_and_gradients(Network(fold=True), x, "tpu")
    assert_near(found[0], expected[0], 1e-5)
    assert_near(found[1], expected[1], 1e-6)
    assert_near(found[2], expected[2], 1e-5)


def exact(variables, x, weights, group_size):
    """The unit's output and gradients without a gate, in float64."""
    with jax.enable_x64(True):
        kernel, scale, bias = (
            jnp.asarray(variables["params"][a][b], jnp.float64)
            for a, b in (("conv", "kernel"), ("bn", "scale"), ("bn", "bias"))
        )
        x = jnp.asarray(x, jnp.float64)

        def loss(kernel, x):
            y = (x @ kernel[0, 0]).reshape(-1, group_size, *x.shape[1:3], kernel.shape[-1])
            mean, var = (f(y, axis=(1, 2, 3), keepdims=True) for f in (jnp.mean, jnp.var))
            y = ((y - mean) / jnp.sqrt(var + 1e-5) * scale + bias).reshape(*x.shape[:3], -1)
            return jnp.sum(weights * y), y

        (dkernel, dx), y = jax.grad(loss, argnums=(0, 1), has_aux=True)(kernel, x)
        return [np.asarray(v) for v in (y, dkernel, dx)]


STRESS = {
    "means of 100 deviations": (100.0, 6, 4),
    "dead channels": (0.5, 6, 4),
    "one pixel, groups of 2": (0.5, 1, 2),
    "as few values as channels": (0.5, 2, 2),
}


@pytest.mark.parametrize("case", STRESS)
def test_under_stress_rounding_is_no_worse_than_the_definitions(case):
    """Both in float32 against float64; the definition takes E[y^2] - E[y]^2 of the result, this form of the input.

    With fewer values than channels it is not taken.
    """
    mean, size, group_size = STRESS[case]
    random = np.random.default_rng(2)
    x = jnp.asarray(random.normal(mean, 1.0, (4, size, size, 8)), jnp.float32)
    x = x.at[..., ::2].set(0.0) if case == "dead channels" else x
    weights = random.normal(size=(4, size, size, 32))

    def errors(platform, fold):
        y, _, (dparams, dx), variables = values_and_gradients(Unit(None, group_size, fold), x, platform, weights)
        truth = exact(variables, x, weights, group_size)
        found = (y, dparams["conv"]["kernel"], dx)
        return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, truth, strict=True)]

    ours, definition = errors("tpu", True), errors(None, False)
    assert all(a <= 2 * b + 1e-6 for a, b in zip(ours, definition, strict=True))


def test_the_form_is_taken_where_a_program_is_for_a_tpu_and_nowhere_else():
    """The convolution's kernel then meets x in no `conv2d`; the definition, and any other platform, keep it."""
    x = jnp.zeros((4, 8, 8, 8))

    def convolutions(fold, platform):
        model = Unit(None, None, fold)
        variables = model.init(jax.random.key(0), x)
        with kernels.compiling_for(platform):
            traced = jax.make_jaxpr(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, x)
        return len(list(kernels.convolutions(traced.jaxpr)))

    assert [convolutions(True, p) for p in ("tpu", "cpu", None)] == [0, 1, 1]
    assert convolutions(False, "tpu") == 1
