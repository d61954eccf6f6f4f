"""timm's ECA models: its names, preprocessing and kernel sizes; shapes, gradients, initialisation, errors.

That they compute what timm computes is shown where weights are converted, in tests/convert.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eca_jax
from eca_jax.models.registry import entry
from eca_jax.models.timm_resnet import PRUNED_50
from eca_jax.weights.torch.peer import import_timm

TIMM = [name for name in eca_jax.list_models() if entry(name).weights_format == "timm"]
# One network for each structure that the families vary, with few blocks (a stage's first, and one that follows); what
# else makes it small; and the image size that it takes.
STAGES = (1, 1, 1, 2)
STRUCTURES = {
    "ecaresnext26t_32x4d": ({"stage_sizes": STAGES}, 64),
    "ecaresnet50d_pruned": (
        {"stage_sizes": (1,) * 4, "widths": tuple((c, blocks[-1:]) for c, blocks in PRUNED_50)},
        64,
    ),
    "seresnet50": ({"stage_sizes": STAGES}, 64),
    "eca_resnet33ts": ({"stage_sizes": STAGES}, 64),
    "eca_botnext26ts_256": ({"stage_sizes": STAGES, "image_size": 64}, 64),
    "eca_halonext26ts": ({"stage_sizes": STAGES}, 256),
    "eca_nfnet_l0": ({"stage_sizes": STAGES}, 64),
    "nf_ecaresnet26": ({"stage_sizes": STAGES}, 64),
    "eca_vovnet39b": ({"stage_sizes": STAGES}, 64),
}


def build(name):
    """A small network, variables drawn so that no layer hides behind a zero or a one, and images."""
    options, size = STRUCTURES[name]
    model = eca_jax.create_model(name, num_classes=5, **options)
    random = np.random.default_rng(0)
    images = random.normal(size=(4, size, size, 3)).astype(np.float32)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale", "gain"):
            return random.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return random.normal(0, math.prod(leaf.shape[:-1]) ** -0.5 / 2, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return model, jax.tree.map_with_path(draw, shapes), images


@pytest.fixture(scope="module")
def timm():
    return import_timm()


def test_every_eca_model_of_timm_is_here(timm):
    assert set(timm.list_models("*eca*")) | {"resnet50d", "seresnet50"} == set(TIMM)


@pytest.mark.parametrize("name", TIMM)
def test_preprocessing_is_that_of_timms_default_weights(timm, name):
    theirs, ours = timm.get_pretrained_cfg(name), eca_jax.models.preprocessing(name)
    size = theirs.input_size[-1]
    assert (ours.image_size, ours.resize_size) == (size, math.floor(size / theirs.crop_pct))
    assert (ours.interpolation, ours.mean, ours.std) == (theirs.interpolation, theirs.mean, theirs.std)


@pytest.mark.parametrize("name", STRUCTURES)
def test_logits_features_and_pooled_shapes(name):
    images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)

    def output(**overrides):
        model = eca_jax.create_model(name, dtype=jnp.bfloat16, **overrides)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images)

    logits, features = output(num_classes=7), output(features_only=True)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert [f.shape[1:3] for f in features] == [(64, 64), (32, 32), (16, 16), (8, 8)]
    final_convolution = {"eca_nfnet_l0": 2304, "eca_resnet33ts": 1280}
    pooled = output(num_classes=0)
    assert (pooled.shape, pooled.dtype) == ((2, final_convolution.get(name, features[-1].shape[-1])), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name):
    model, variables, images = build(name)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), jnp.arange(4)])

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables["params"])):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_folded_and_plain_forms_agree():
    model, variables, images = build("ecaresnext26t_32x4d")
    weights = jax.random.normal(jax.random.key(2), (4, 5))

    def run(fold):
        def loss(params):
            form = model.clone(fold=fold)
            logits, updates = form.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return jnp.sum(weights * logits), (logits, updates, form.apply(variables, images))

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    folded, plain = run(True), run(False)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(folded), jax.tree.leaves(plain), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max(), jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("ecaresnext26t_32x4d", "/bn3/scale"),
        ("eca_botnext26ts_256", "/conv3_1x1/bn/scale"),
        ("nf_ecaresnet26", "/conv3/gain"),
    ],
)
def test_residual_branches_start_from_nothing(name, last):
    model, _, images = build(name)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    found = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if jax.tree_util.keystr(path, simple=True, separator="/").endswith(last)
    ]
    assert len(found) == sum(STAGES)
    assert not any(leaf.any() for leaf in found)


def kernel_sizes(name, **overrides):
    """Of every ECA in the network, in the order of its blocks."""
    model = eca_jax.create_model(name, **overrides)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 256, 256, 3)))["params"]
    return [leaf.shape[0] for leaf in jax.tree.leaves(shapes) if leaf.ndim == 3]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ecaresnet50d", [5] * 13 + [7] * 3),
        ("ecaresnet50d_pruned", [5] * 13 + [7] * 3),
        ("eca_resnext26ts", [3, 3, 5, 5, 5, 5, 5, 5]),
        ("eca_resnet33ts", [3] * 2 + [5] * 8),
        ("eca_botnext26ts_256", [3, 3, 5, 5, 5]),
        ("eca_halonext26ts", [3, 3, 5, 5, 5]),
        ("eca_nfnet_l0", [5] * 12),
        ("nf_ecaresnet26", [5] * 6 + [7] * 2),
        ("eca_vovnet39b", [5] * 4),
    ],
)
def test_kernel_sizes_are_timms(name, expected):
    assert kernel_sizes(name) == expected


@pytest.mark.parametrize("name", ["ecaresnext26t_32x4d", "eca_resnet33ts", "eca_nfnet_l0", "eca_vovnet39b"])
def test_kernel_sizes_by_choice(name):
    assert set(kernel_sizes(name, kernel_sizes=(9, 9, 9, 9), **STRUCTURES[name][0])) == {9}


def test_the_adaptive_kernel_size_sees_the_pruned_channels():
    assert kernel_sizes("ecaresnet50d_pruned", kernel_sizes="adaptive") == [3] * 3 + [5] * 10 + [5] * 3


def test_kernel_sizes_must_fit_the_network():
    images = jnp.zeros((1, 64, 64, 3))
    for name, sizes, message in [
        ("ecaresnet26t", (3, 5), "one size a stage"),
        ("eca_vovnet39b", (3, 5), "one size a stage"),
        ("seresnet50", (3, 5, 5, 7), "belongs to networks with ECA"),
    ]:
        model = eca_jax.create_model(name, kernel_sizes=sizes)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), images)


def test_self_attention_says_which_image_sizes_it_takes():
    images = jnp.zeros((1, 224, 224, 3))
    for name, message in [("eca_botnext26ts_256", "`image_size`"), ("eca_halonext26ts", "blocks of 8x8")]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(eca_jax.create_model(name).init, jax.random.key(0), images)
    resized = eca_jax.create_model("eca_botnext26ts_256", image_size=224)
    assert jax.eval_shape(lambda x: resized.init_with_output(jax.random.key(0), x)[0], images).shape == (1, 1000)
