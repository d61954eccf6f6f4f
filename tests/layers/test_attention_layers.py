"""Every attention by name: sizes, dtypes, gradients, parameters, folding; identities between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import NEEDS, apply, compiled, drawn, random, with_gradients
from flax import linen as nn

from eca_jax.layers import BatchNorm, ChannelGate, Conv, conv_norm_gate, create_attention, list_attentions
from eca_jax.layers.attention import resolve_attention
from eca_jax.layers.attention.covariance import covariance

# What the tests of this session registered beside them is not this file's.
NAMES = [name for name in list_attentions() if resolve_attention(name).build.__module__.startswith("eca_jax.")]
GATES = [name for name in NAMES if issubclass(resolve_attention(name).build, ChannelGate)]


def check_finite(layer, x, train=True):
    (y, updates), gradients = compiled(layer, drawn(layer, x), x, x.astype(jnp.float32), train)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    for leaf in jax.tree.leaves((y, updates, gradients)):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()


@pytest.mark.parametrize("name", NAMES)
def test_odd_sides_and_finite_gradients(name):
    """Also of maps where nothing varies, which square roots dislike."""
    layer, x = create_attention(name), random(3, 7, 5, 16)
    for value in (x, jnp.zeros_like(x), jnp.ones_like(x)):
        check_finite(layer, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_any_size_and_both_dtypes(name):
    """Every number of channels of the networks, a pixel and a large map, a batch of one."""
    layer = create_attention(name)
    for shape, dtype in (
        ((3, 7, 5, 16), jnp.bfloat16),
        ((3, 1, 1, 24), jnp.float32),
        ((1, 14, 56, 96), jnp.bfloat16),
        ((3, 5, 7, 1280), jnp.bfloat16),
    ):
        if shape[-1] % NEEDS.get(name, 1):
            continue  # the test below has what it says then
        check_finite(layer, random(*shape).astype(dtype), train=shape[0] > 1 or name != "srm")


@pytest.mark.parametrize("name", NAMES)
def test_channels_that_do_not_fit_are_one_line(name):
    layer, x = create_attention(name), random(2, 3, 3, 24)

    def shape():
        return jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x, False)[0], x).shape

    if 24 % NEEDS.get(name, 1):
        with pytest.raises(ValueError, match=r"24 channels do not split into .*16.*: 8 or 12"):
            shape()
    else:
        assert shape() == x.shape


def test_the_deviation_over_examples_needs_two():
    layer, x = create_attention("srm"), random(1, 3, 3, 8)
    with pytest.raises(ValueError, match="more than one value per channel"):
        apply(layer, drawn(layer, x), x, train=True)


# Blocks of ResNet-50: output channels, and how many.
BLOCKS = {256: 3, 512: 4, 1024: 6, 2048: 3}


def parameters(name, blocks=None, **options):
    """What an attention adds to a ResNet-50 that has it in these blocks."""
    layer = create_attention(name, **options)

    def size(channels):
        tree = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, False), jnp.zeros((1, 8, 8, channels)))
        return sum(leaf.size for leaf in jax.tree.leaves(tree.get("params", {})))

    return sum(count * size(channels) for channels, count in (blocks or BLOCKS).items())


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("se", {}, 2_514_944),
        ("se_var1", {}, 0),
        ("se_var2", {}, 15_104),
        ("se_var3", {}, 20_119_552),
        ("se_gc1", {}, 1_257_472),
        ("se_gc2", {}, 241_664),
        ("se_gc3", {}, 120_832),
        ("eca_ns", {}, 45_312),
        ("eca", {"kernel_size": 3}, 48),
        ("eca2", {"kernel_size": 3}, 96),
        ("eca3", {"kernel_size": 3}, 144),
        ("gct", {}, 45_312),
        ("srm", {}, 60_416),
        ("cbam", {}, 2_532_592),
        ("cbam", {"use_bias": False}, 2_516_544),
        ("coord", {}, 2_526_432),
        ("gc", {"blocks": {512: 4, 1024: 6, 2048: 3}}, 2_521_741),
        ("gc", {"reduction": 8}, 5_065_776),
        ("gsop", {"blocks": {512: 1, 1024: 1, 2048: 1}}, 2_497_408),
        ("gsop", {"blocks": dict.fromkeys(BLOCKS, 1)}, 2_728_192),
        ("a2", {"norm": False, "blocks": {512: 2, 1024: 3}}, 7_340_032),
        ("simam", {}, 0),
        ("ge", {}, 0),
    ],
)
def test_parameters_on_resnet50(name, options, expected):
    assert parameters(name, **options) == expected


def test_a_diagonal_and_a_grouped_gate_are_dense_ones_with_zeros():
    y = random(3, 32)
    dense = create_attention("se_var3")

    def as_dense(matrix):
        return dense.apply({"params": {"fc": {"kernel": matrix}}}, y, method="gate")

    w = random(32)
    diagonal = create_attention("se_var2").apply({"params": {"weight": w}}, y, method="gate")
    np.testing.assert_allclose(diagonal, as_dense(jnp.diag(w)), atol=1e-6)
    for name, size in (("se_gc1", 2), ("se_gc2", 16), ("se_gc3", 8)):
        blocks = random(32 // size, size, size)
        grouped = create_attention(name).apply({"params": {"weight": blocks}}, y, method="gate")
        np.testing.assert_allclose(grouped, as_dense(jax.scipy.linalg.block_diag(*blocks)), atol=1e-6)
    whole = random(1, 32, 32)
    one = create_attention("se_gc1", groups=1).apply({"params": {"weight": whole}}, y, method="gate")
    np.testing.assert_allclose(one, as_dense(whole[0]), atol=1e-6)


def test_unshared_kernels_that_are_equal_are_shared():
    y, taps = random(3, 20), random(5)
    shared = create_attention("eca", kernel_size=5).apply(
        {"params": {"conv": {"kernel": taps[:, None, None]}}}, y, method="gate"
    )
    kernel = jnp.broadcast_to(taps[:, None, None], (5, 1, 20))
    unshared = create_attention("eca_ns", kernel_size=5).apply(
        {"params": {"conv": {"kernel": kernel}}}, y, method="gate"
    )
    np.testing.assert_allclose(unshared, shared, atol=1e-6)


def test_linear_convolutions_one_after_another_are_one_but_at_the_ends():
    y, first, second = random(3, 20), random(3, seed=1), random(3, seed=2)
    params = {f"conv_{i}": {"kernel": taps[:, None, None]} for i, taps in enumerate((first, second))}
    stacked = create_attention("eca2", kernel_size=3, activation=None).apply({"params": params}, y, method="gate")
    five = jnp.convolve(first, second, precision="highest")
    one = create_attention("eca", kernel_size=5).apply(
        {"params": {"conv": {"kernel": five[:, None, None]}}}, y, method="gate"
    )
    np.testing.assert_allclose(stacked[:, 2:-2], one[:, 2:-2], atol=1e-6)
    rectified = create_attention("eca2", kernel_size=3).apply({"params": params}, y, method="gate")
    assert np.abs(rectified - stacked).max() > 0.05


def test_a_covariance_is_one():
    x = random(2, 5, 7, 6) + 100  # far from zero, where sums of squares would lose it
    found = covariance(x)
    for example, matrix in zip(np.asarray(x, np.float64).reshape(2, 35, 6), found, strict=True):
        np.testing.assert_allclose(matrix, np.cov(example.T, bias=True), atol=1e-5)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > -1e-6


class Unit(nn.Module):
    """Convolution, BatchNorm and gate, as at the end of a residual block."""

    gate: str
    fold: bool

    @nn.compact
    def __call__(self, x, train):
        spec = resolve_attention(self.gate)
        gate = spec.build(**spec.options, fast=self.fold, name="gate")
        return conv_norm_gate(x, Conv(32, 1, name="conv"), BatchNorm(name="bn"), gate, train=train, fold=self.fold)


@pytest.mark.parametrize("name", GATES)
def test_every_gate_folds(name):
    x, weights = random(4, 5, 3, 16) + 0.5, random(4, 5, 3, 32, seed=2)
    variables = drawn(Unit(name, True), x)

    for train in (True, False):
        folded, plain = (with_gradients(Unit(name, fold), variables, x, weights, train) for fold in (True, False))
        for ours, theirs in zip(jax.tree.leaves(folded), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
