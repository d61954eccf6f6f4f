"""Stochastic depth and dropout: as often as is asked, free where the gate is folded, the same in whatever parts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import InvalidRngError

from eca_jax import create_model
from eca_jax.layers.attention import ECA
from eca_jax.layers.conv_norm_act import ConvNormAct
from eca_jax.layers.fold import conv_norm_gate
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.mobilenet_v2 import InvertedResidual
from eca_jax.models.network import ROW
from eca_jax.models.vovnet import OneShotAggregation

EXAMPLES, SIZE = 8, 8
OPTIONS = {"num_classes": 5, "stage_sizes": (2, 0, 0, 0), "small_images": True}


def kept(examples, blocks, rate=0.5, **collections):
    model = create_model("eca_resnet18", drop_path=rate)
    images = jnp.zeros((examples, 1, 1, 3))
    return model.apply(collections, images, blocks, True, method="_kept", rngs={"drop_path": jax.random.key(0)})


def test_each_block_is_kept_as_often_as_its_rate_says():
    first, *others = kept(2000, 6)
    assert first is None  # the first block always stays
    for index, factors in enumerate(others, start=1):
        share = 1 - 0.5 * index / 5
        values = np.asarray(factors)
        np.testing.assert_allclose(np.unique(values), [0, 1 / share], rtol=1e-6)
        assert abs((values > 0).mean() - share) < 3 * (share * (1 - share) / 2000) ** 0.5


def test_a_part_of_a_batch_draws_what_the_batch_draws():
    whole, part = kept(12, 3), kept(4, 3, batch={ROW: jnp.arange(4, 8)})
    for a, b in zip(whole[1:], part[1:], strict=True):
        np.testing.assert_array_equal(a[4:8], b)


class Linear(nn.Module):
    """In place of any convolution: a compiler has less to do."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    mean_commutes = False  # so that `conv_norm_gate` asks no more of it

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))


class Branch(nn.Module):
    """A block's last convolution, BatchNorm and gate."""

    attention: Any
    group_size: int | None
    fold: bool

    @nn.compact
    def __call__(self, x, kept):
        gate = self.attention and self.attention(name="gate")
        norm = BatchNorm(group_size=self.group_size, name="norm")
        return conv_norm_gate(x, Linear(6, name="conv"), norm, gate, train=True, fold=self.fold, kept=kept)


@pytest.mark.parametrize("attention", [None, ECA])
@pytest.mark.parametrize("group_size", [None, 4])
def test_folded_or_not_the_same_branches_are_left_out(attention, group_size):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(EXAMPLES, 5, 5, 3)), jnp.float32)
    kept = jnp.asarray([0, 1.25, 1.25, 0, 1.25, 1.25, 0, 0])
    folded, plain = (Branch(attention, group_size, fold) for fold in (True, False))
    variables = jax.jit(folded.init)(jax.random.key(0), x, kept)

    def run(branch, kept):
        def loss(params):
            y, _ = branch.apply({**variables, "params": params}, x, kept, mutable=["batch_stats"])
            return jnp.sum(jnp.square(y)), y

        return jax.grad(loss, has_aux=True)(variables["params"])

    runs = jax.jit(lambda kept: (run(folded, kept), run(plain, kept), run(plain, jnp.ones_like(kept))))
    (gradients, found), (expected_gradients, expected), (_, whole) = runs(kept)
    np.testing.assert_allclose(found, np.asarray(whole) * np.asarray(kept)[:, None, None, None], atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("eca_resnet18", {"bn_group_size": 4}), ("resnet18", {})])
def test_a_network_folded_or_not_leaves_the_same_branches_out(name, options):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(EXAMPLES, SIZE, SIZE, 3)), jnp.float32)
    plain = create_model(name, **OPTIONS, **options)
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    results = []
    for fold in (True, False):
        model = create_model(name, **OPTIONS, **options, drop_path=0.8, fold=fold)

        @jax.jit
        def outputs(rng, model=model):
            return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"drop_path": rng})[0]

        results.append(outputs(jax.random.key(2)))
    np.testing.assert_allclose(*results, atol=1e-5 * np.abs(results[0]).max())
    without, _ = jax.jit(lambda v: plain.apply(v, images, train=True, mutable=["batch_stats"]))(variables)
    assert np.abs(np.asarray(results[0] - without)).max() > 1e-2


def test_nothing_is_left_out_at_inference():
    images = jnp.zeros((EXAMPLES, SIZE, SIZE, 3))
    plain, model = (
        create_model("eca_resnet18", **OPTIONS, **rates) for rates in ({}, {"drop_path": 0.8, "dropout": 0.5})
    )
    variables = jax.eval_shape(plain.init, jax.random.key(0), images)
    assert str(jax.make_jaxpr(model.apply)(variables, images)) == str(jax.make_jaxpr(plain.apply)(variables, images))


def applied(block, x):
    """`run(kept)` -> the block's output in training."""
    variables = jax.jit(block.init, static_argnums=2)(jax.random.key(0), x, True)
    return jax.jit(lambda kept: block.apply(variables, x, True, kept, mutable=["batch_stats"])[0])


@pytest.mark.parametrize(
    "block",
    [
        InvertedResidual(4, 1, 2, Linear, BatchNorm),
        OneShotAggregation(4, 3, True, partial(ConvNormAct, conv=Linear, norm=BatchNorm, act=nn.relu), None),
    ],
    ids=["mobilenet_v2", "vovnet"],
)
def test_a_block_without_its_branch_is_its_input(block):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 5, 4)), jnp.float32)
    run = applied(block, x)
    whole, found = run(jnp.ones(3)), run(jnp.asarray([0.0, 2.0, 1.0]))
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_allclose(found[1] - x[1], 2 * (whole[1] - x[1]), atol=1e-5)
    np.testing.assert_allclose(found[2], whole[2], atol=1e-5)


def test_a_block_without_a_residual_keeps_its_branch():
    run = applied(InvertedResidual(8, 1, 2, Linear, BatchNorm), jnp.ones((2, 4, 4, 4)))
    np.testing.assert_array_equal(run(jnp.zeros(2)), run(jnp.ones(2)))


def test_features_are_left_out_by_rows_as_often_as_is_asked():
    model, rngs = create_model("eca_resnet18", dropout=0.3), {"dropout": jax.random.key(0)}
    whole = model.apply({}, jnp.zeros((200, 1, 1, 16)), True, method="_undropped", rngs=rngs)
    np.testing.assert_allclose(np.unique(whole), [0, 1 / 0.7], rtol=1e-6)
    assert abs((np.asarray(whole) > 0).mean() - 0.7) < 3 * (0.21 / whole.size) ** 0.5
    rows = {"batch": {ROW: jnp.arange(50, 60)}}
    part = model.apply(rows, jnp.zeros((10, 1, 1, 16)), True, method="_undropped", rngs=rngs)
    np.testing.assert_array_equal(part, whole[50:60])


NETWORKS = {
    "eca_resnet18": {"stage_sizes": (1, 1, 0, 0)},
    "eca_resnext26ts": {"stage_sizes": (1, 1, 0, 0)},
    "nf_ecaresnet26": {"stage_sizes": (1, 1, 0, 0)},
    "eca_vovnet39b": {"stage_sizes": (1, 2, 0, 0)},
    "eca_mobilenet_v2": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_residual_blocks_has_both(name):
    """Each draws in training from its own stream, and without one it is an error."""
    images = jnp.ones((4, 64, 64, 3))
    model = create_model(name, num_classes=3, drop_path=0.9, dropout=0.5, **NETWORKS[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rngs = {stream: jax.random.key(0) for stream in ("drop_path", "dropout")}

    def apply(variables, rngs):
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    jax.eval_shape(apply, shapes, rngs)
    for stream in rngs:
        with pytest.raises(InvalidRngError, match=stream):
            jax.eval_shape(apply, shapes, {k: v for k, v in rngs.items() if k != stream})


def test_rates_that_cannot_be_are_errors():
    with pytest.raises(ValueError, match="drop_path must be"):
        kept(2, 2, rate=1.5)
    model = create_model("eca_resnet18", dropout=1.0)
    with pytest.raises(ValueError, match="dropout must be"):
        model.apply({}, jnp.zeros((2, 1, 1, 4)), True, method="_undropped")
