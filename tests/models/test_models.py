"""Every model of the project's own families: shapes, dtypes, gradients, options, folded against plain."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eca_jax
from eca_jax.models.registry import entry

OURS = [name for name in eca_jax.list_models() if entry(name).weights_format in ("ecanet", "torchvision")]


def shallow(name):
    """Fewer blocks of the same kinds for the deepest networks, where more of them would add nothing but minutes."""
    return {"stage_sizes": (2, 1, 2, 1)} if re.search("34|101|152|200|(gc|aa|a2|gsop)_", name) else {}


# One of each kind of block: the deeper networks have those of 50 layers.
KINDS = [name for name in OURS if not re.search("resne.t(101|152|200)", name)]


def abstract(model, images):
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)


def build(name, images, **overrides):
    """A model with random parameters and statistics, so that no layer hides behind a zero or a one.

    NumPy draws them: compiling a network's initialisation takes longer than the test.
    """
    model = eca_jax.create_model(name, **overrides)
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        std = 0.2 if path[-1].key in ("mean", "bias") else (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(std * random.normal(size=leaf.shape), jnp.float32)

    return model, jax.tree_util.tree_map_with_path(draw, abstract(model, images))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).normal(size=(4, 32, 32, 3)), jnp.float32)


@pytest.mark.parametrize("name", OURS)
def test_logits_features_and_pooled_shapes(name):
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)

    def output(**overrides):
        model = eca_jax.create_model(name, **shallow(name), **overrides)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], images)

    logits = output(num_classes=7, dtype=jnp.bfloat16)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    wide = 1280 if "mobilenet" in name else 512 if name.endswith(("18", "34")) else 2048
    pooled = output(num_classes=0)
    assert (pooled.shape, pooled.dtype) == ((2, wide), jnp.float32)
    features = output(features_only=True)
    assert [f.shape[1] for f in features] == [56, 28, 14, 14 if "gsop" in name else 7]
    small = output(features_only=True, small_images=True)
    assert small[0].shape[1] > features[0].shape[1]


# Gradients below are computed operation by operation: the networks share most of their operations, and compiling each
# network as one program would take minutes.


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name, images):
    large = {"small_images": True} if re.match("gc|aa", name) else {}  # a softmax over one pixel has no gradient
    model, variables = build(name, images, num_classes=5, **shallow(name), **large)
    labels = jnp.arange(4) % 5

    def loss(params):
        rngs = {"dropout": jax.random.key(3)}
        logits, _ = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"], rngs=rngs)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables["params"])):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        cancels = "['gc']['mask']['bias']" in jax.tree_util.keystr(path)  # in GC's softmax over the pixels
        assert np.abs(gradient).max() > 0 or cancels, jax.tree_util.keystr(path)


ECA_NETWORKS = [name for name in OURS if name.startswith("eca_") and "next" not in name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bn_group_size"), [(name, None) for name in ECA_NETWORKS] + [("eca_resnet18", 4), ("eca_mobilenet_v2", 4)]
)
def test_folded_network_equals_the_plain_one(name, bn_group_size, monkeypatch):
    """Logits in training and at inference, every gradient, and the running statistics.

    `tests/layers/test_attention.py` holds one block to 1e-5. A whole network amplifies rounding, so here the
    difference between the forms may reach that of the plain network between inputs that differ by rounding. ReLU would
    hide everything under flips of its mask (1e-1 in the gradients, in both comparisons): a smooth activation stands in.
    """
    monkeypatch.setattr("flax.linen.relu", jax.nn.softplus)
    monkeypatch.setattr("flax.linen.relu6", jax.nn.softplus)
    monkeypatch.setattr("eca_jax.models.resnet.add_relu", lambda x, y: jax.nn.softplus(x + y))
    images = np.random.default_rng(1).normal(size=(8, 32, 32, 3)).astype(np.float32)
    options = {"num_classes": 5, "bn_group_size": bn_group_size, "small_images": True, **shallow(name)}
    model, variables = build(name, images, **options)
    # Residual branches at a fifth of their usual weight keep the amplification near 100.
    last = {"eca_resnet18": "bn2", "eca_resnet34": "bn2", "eca_mobilenet_v2": "project_bn"}.get(name, "bn3")
    for block in variables["params"].values():
        if "eca" in block:
            block[last]["scale"] *= 0.2
    weights = np.random.default_rng(4).normal(size=(8, 5)).astype(np.float32)

    def run(fold, images=images):
        network = model.clone(fold=fold, **({"dropout": 0.0} if hasattr(model, "dropout") else {}))

        def loss(params):
            logits, updates = network.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return jnp.sum(weights * logits), (logits, updates)

        gradients, outputs = jax.grad(loss, has_aux=True)(variables["params"])
        return gradients, outputs, network.apply(variables, images)

    def difference(tree):
        relative = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), tree, plain)
        return [max(jax.tree.leaves(part)) for part in relative]

    plain = run(fold=False)
    rounding = difference(run(fold=False, images=images * np.float32(1 + 1e-7)))
    for part, folded, floor in zip(
        ("gradients", "training", "inference"), difference(run(True)), rounding, strict=True
    ):
        assert folded <= max(1e-5, 4 * floor), part
        assert floor < 1e-3, "rounding alone hides a difference in the form"


@pytest.mark.slow
def test_bfloat16_stays_near_float32(images):
    model, variables = build("eca_resnet18", images)
    half = eca_jax.create_model("eca_resnet18", dtype=jnp.bfloat16)
    exact, rounded = model.apply(variables, images), half.apply(variables, images)
    assert rounded.dtype == jnp.float32
    assert np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def kernel_sizes(model):
    shapes = abstract(model, jnp.zeros((1, 32, 32, 3)))
    leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
    return [leaf.shape[0] for path, leaf in leaves if "eca" in jax.tree_util.keystr(path)]


def test_kernel_sizes_of_the_release_by_default_and_by_choice():
    per_block = [3] * 3 + [5] * 4 + [5] * 6 + [7] * 3
    assert kernel_sizes(eca_jax.create_model("eca_resnet50")) == per_block
    adaptive = [5] * 3 + [5] * 4 + [5] * 6 + [7] * 3
    assert kernel_sizes(eca_jax.create_model("eca_resnet50", kernel_sizes="adaptive")) == adaptive
    assert set(kernel_sizes(eca_jax.create_model("eca_resnet18", kernel_sizes=(9, 9, 9, 9)))) == {9}
    assert set(kernel_sizes(eca_jax.create_model("eca_mobilenet_v2", kernel_sizes=(5,) * 17))) == {5}


def test_a_rivals_attention_is_in_its_authors_places():
    def blocks(name, part, **options):
        tree = abstract(eca_jax.create_model(name, **options), jnp.zeros((1, 64, 64, 3)))["params"]
        return [block for block in tree if part in tree[block] and "kernel" not in tree[block][part]]

    assert blocks("gsop_resnet50", "gsop") == ["layer1_2", "layer2_3", "layer3_5", "layer4_2"]
    assert blocks("a2_resnet50", "a2") == ["layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"]
    assert blocks("gc_resnet50", "gc") == blocks("aa_resnet50", "conv2")
    assert len(blocks("gc_resnet50", "gc")) == 4 + 6 + 3
    # By hand, in a network that is shorter than the places.
    assert blocks("resnet18", "se", attention="se", attention_blocks=((5,), (0,), (-1,), None)) == [
        "layer2_0",
        "layer3_1",
        "layer4_0",
        "layer4_1",
    ]
    with pytest.raises(ValueError, match="attention_blocks are of four stages"):
        blocks("resnet18", "se", attention="se", attention_blocks=((0,),))


def test_width_multiplier_scales_mobilenet():
    model = eca_jax.create_model("eca_mobilenet_v2", width_mult=0.5)
    shapes = abstract(model, jnp.zeros((1, 32, 32, 3)))
    assert shapes["params"]["features_17"]["project_conv"]["kernel"].shape[-1] == 160
    # torchvision's mobilenet_v2(width_mult=0.5), and 17 kernels of one tap but the three wide ones of three.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 1_968_680 + 19


def test_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match="did you mean eca_resnet50"):
        eca_jax.create_model("eca_resnet_50")


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("eca_resnet18", {"kernel_size": (3, 3, 3, 3)}, "did you mean kernel_sizes"),
        ("eca_resnet18", {"kernel_sizes": (3, 3)}, "one size a stage"),
        ("resnet18", {"kernel_sizes": (3, 3, 3, 3)}, "ECA"),
        ("eca_mobilenet_v2", {"kernel_sizes": (3,)}, "17 blocks"),
        ("eca_resnet18", {"kernel_sizes": (3, 3, 4, 3)}, "must be odd and 1 or more, got 4"),
        ("eca_resnet18", {"attention_options": {"kernel_size": 0}}, "must be odd and 1 or more, got 0"),
    ],
)
def test_options_that_do_not_fit_are_errors(name, override, message):
    with pytest.raises(ValueError, match=message):
        model = eca_jax.create_model(name, **override)
        abstract(model, jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize(
    "override",
    [
        *({"kernel_sizes": value} for value in (4, "3", (3, 3, 3, "3"))),
        *({"num_classes": value} for value in ("10", -1, 2.0, True)),
        *({"dtype": value} for value in ("bf16", jnp.int32, 16)),
    ],
    ids=str,
)
def test_a_value_that_none_can_have_is_refused_at_once(override):
    ((key, value),) = override.items()
    with pytest.raises(ValueError, match=rf"^{key} must be .* not {re.escape(repr(value))}$"):
        eca_jax.create_model("eca_resnet18", **override)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "eca_nfnet_l0", "eca_resnet33ts", "eca_vovnet39b"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (2, 3, 32, 32)], ids=["no batch", "channels first"])
def test_arrays_that_are_no_images_are_refused_by_their_shape(name, shape):
    model = eca_jax.create_model(name)
    with pytest.raises(ValueError, match=re.escape(f"[N, H, W, C], channels last, not {list(shape)}")):
        model.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_importing_the_models_needs_no_tensorflow_and_no_torch():
    import subprocess
    import sys

    code = """
import sys
for name in ("tensorflow", "torch", "clu", "ml_collections", "tensorflow_datasets"):
    sys.modules[name] = None
import eca_jax
eca_jax.create_model("eca_resnet50")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
