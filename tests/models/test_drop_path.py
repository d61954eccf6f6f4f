"""Stochastic depth: rates that grow from block to block, free where the gate is folded, the same in whatever parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax import create_model
from eca_jax.models.network import ROW

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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("eca_resnet18", {"bn_group_size": 4}),
        pytest.param("eca_resnet18", {}, marks=pytest.mark.slow),
        pytest.param("resnet18", {}, marks=pytest.mark.slow),
    ],
)
def test_folded_or_not_the_same_branches_are_left_out(name, options):
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
    np.testing.assert_allclose(*results, atol=1e-4)
    without, _ = jax.jit(lambda v: plain.apply(v, images, train=True, mutable=["batch_stats"]))(variables)
    assert np.abs(np.asarray(results[0] - without)).max() > 1e-2
    model = create_model(name, **OPTIONS, **options, drop_path=0.8)
    assert str(jax.make_jaxpr(model.apply)(variables, images)) == str(jax.make_jaxpr(plain.apply)(variables, images))


@pytest.mark.parametrize("name", ["eca_resnext26ts", "nf_ecaresnet26"])
def test_every_network_of_residual_blocks_has_it(name):
    images = jnp.ones((4, 64, 64, 3))
    model = create_model(name, num_classes=3, stage_sizes=(1, 1, 0, 0), drop_path=0.9)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rngs = {"drop_path": jax.random.key(0)}
    jax.eval_shape(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"], rngs=rngs), shapes)
    with pytest.raises(ValueError, match="drop_path must be"):
        kept(2, 2, rate=1.5)
