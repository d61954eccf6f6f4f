"""Any attention in any network: by name, by class, by partial, and one of a stranger's own."""

import functools
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from small_network import random_variables

import eca_jax
from eca_jax.layers import ECA, SE, BatchNorm, ChannelGate, Conv, create_attention, list_attentions, register_attention
from eca_jax.models import accepts, create_model
from eca_jax.models.mobilenet_v2 import InvertedResidual
from eca_jax.models.resnet import ResNet

# A network of each family with a place for an attention, what makes it small, and the attention's name in its blocks
# (None: the attention's own).
FAMILIES = {
    "resnet18": ({"stage_sizes": (1, 1, 1, 1), "small_images": True}, None),
    "resnet50": ({"stage_sizes": (1, 1, 1, 1), "small_images": True}, None),
    "mobilenet_v2": ({"width_mult": 0.25, "small_images": True}, None),
    "resnet50d": ({"stage_sizes": (1, 1, 1, 1)}, "se"),
    "eca_resnext26ts": ({"stage_sizes": (1, 1, 1, 1)}, "attn"),
    "eca_nfnet_l0": ({"stage_sizes": (1, 1, 1, 1)}, "attn_last"),
    "eca_vovnet39b": ({"stage_sizes": (1, 1, 1, 1)}, "attn"),
}
MAIN = ("resnet18", "mobilenet_v2", "resnet50d")


# A new attention, used by name in every family below: what docs/extend.md shows, run as it stands.
_EXTEND = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
_EXAMPLE: dict[str, Any] = {}
exec(
    next(code for code in re.findall(r"```python\n(.*?)```", _EXTEND, re.DOTALL) if "register_attention" in code),
    _EXAMPLE,
)
SpatialGate = _EXAMPLE["SpatialGate"]


class Bias(ChannelGate):
    """A gate that knows nothing of the networks: a learned weight a channel."""

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        return nn.sigmoid(pooled + self.param("bias", nn.initializers.ones, (pooled.shape[-1],)))


def shapes(name, **options):
    """{path: shape} of every variable of a small network."""
    model = eca_jax.create_model(name, num_classes=3, **{**FAMILIES[name][0], **options})
    tree = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))
    return {path: leaf.shape for path, leaf in flatten_dict(tree).items()}


@functools.cache
def plain_shapes(name):
    return shapes(name, attention=None)


def attention_part(name, **options):
    """Those of them that are the attention's: what the network has beside the plain one."""
    plain = plain_shapes(name)
    found = shapes(name, **options)
    assert plain.items() <= found.items()
    return {path: shape for path, shape in found.items() if path not in plain}


@pytest.mark.parametrize("attention", ["ceca", "se", "spatial", Bias])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_every_attention(name, attention):
    own = {"ceca": "eca", "se": "se"}.get(attention, "attention")
    assert {path[2] for path in attention_part(name, attention=attention)} == {FAMILIES[name][1] or own}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_name_a_class_and_a_partial_are_the_same(name):
    by_name = shapes(name, attention="eca")
    assert by_name == shapes(name, attention=ECA) == shapes(name, attention=partial(ECA))
    # Also where the network is one with ECA to begin with, whose rule for kernel sizes goes on to hold.
    if f"eca_{name}" in eca_jax.list_models():
        model = eca_jax.create_model(f"eca_{name}", num_classes=3, **FAMILIES[name][0])
        tree = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))
        assert by_name == {path: leaf.shape for path, leaf in flatten_dict(tree).items()}


NINE = (
    {"attention": "eca", "attention_options": {"kernel_size": 9}},
    {"attention": partial(ECA, kernel_size=9)},
    {"attention": partial(ECA, 9)},
)


@pytest.mark.parametrize(
    ("name", "nine"), [(name, NINE[0]) for name in FAMILIES] + [("resnet18", nine) for nine in NINE[1:]]
)
def test_a_kernel_size_of_ones_own_is_honoured(name, nine):
    """In every family, and as an option, by keyword and by position."""
    found = attention_part(name, **nine)
    assert found
    assert set(found.values()) == {(9, 1, 1)}


def test_kernel_sizes_are_of_every_attention_that_has_one():
    ecam = attention_part("resnet18", attention="ecam", kernel_sizes=(3, 5, 7, 9))
    assert [shape[0] for path, shape in ecam.items() if path[-2:] == ("conv2", "kernel")] == [3, 5, 7, 9]
    adaptive = attention_part("mobilenet_v2", attention=ECA, kernel_sizes="adaptive")
    assert set(adaptive.values()) == {(3, 1, 1)}  # the network's own rule is 1 where there are few channels


# Blocks of the three main forms, alone: the rest of a network adds nothing to an attention but compilation.
BLOCKS = {
    "resnet": partial(ResNet, (1, 0, 0, 0), small_images=True, num_classes=3),
    "timm's resnet": partial(create_model, "resnet50d", stage_sizes=(1, 0, 0, 0), small_images=True, num_classes=3),
    "mobilenet_v2": lambda attention, fold=True: InvertedResidual(
        features=8, stride=1, expansion=2, conv=Conv, norm=BatchNorm, attention=attention, fold=fold
    ),
}


def run(form, attention, *, fold, train):
    """Output, gradients and statistics of a block with drawn variables."""
    model = BLOCKS[form](attention=attention, fold=fold)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 8 if form == "mobilenet_v2" else 3)), jnp.float32)
    random = np.random.default_rng(1)
    tree = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0.1, 0.5, leaf.shape), jnp.float32), tree)

    @jax.jit
    def step(variables, x):
        def loss(params):
            y, updates = model.apply({**variables, "params": params}, x, train, mutable=["batch_stats"])
            return jnp.sum(y * jnp.arange(y.shape[-1])), (y, updates["batch_stats"])

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, (y, updates) = step(variables, x)
    return y, flatten_dict(gradients), flatten_dict(updates), flatten_dict(variables["batch_stats"])


@pytest.mark.parametrize("form", BLOCKS)
def test_an_attention_with_a_map_runs_and_trains(form):
    attention = partial(SpatialGate, name="attention") if form == "mobilenet_v2" else "spatial"
    y, gradients, statistics, before = run(form, attention, fold=True, train=True)
    assert np.isfinite(y).all()
    inside = [path for path in statistics if {"attention", "se"} & set(path)]  # timm's ResNets name what is there "se"
    assert inside
    assert all(np.abs(statistics[path] - before[path]).max() > 0 for path in inside), "blocks pass `train`"
    for path, leaf in gradients.items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0 or not {"attention", "se"} & set(path), path
    # It is no channel gate, so nothing is folded.
    np.testing.assert_array_equal(*(run(form, attention, fold=fold, train=False)[0] for fold in (True, False)))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("form", BLOCKS)
def test_a_gate_of_a_strangers_is_folded(form, train):
    called = set()

    def record(call, args, kwargs, context):
        called.add((type(context.module).__name__, context.method_name))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        folded = run(form, Bias, fold=True, train=train)
        assert ("Bias", "gate") in called
        assert ("Bias", "__call__") not in called
        plain = run(form, Bias, fold=False, train=train)
        assert ("Bias", "__call__") in called
    for part in (0, 2):  # output and statistics; tests/layers/test_attention.py has the gradients
        for ours, theirs in zip(jax.tree.leaves(folded[part]), jax.tree.leaves(plain[part]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_what_a_network_knows_reaches_an_attention_that_asks():
    model = eca_jax.create_model(
        "resnet18", attention="spatial", bn_group_size=2, dtype=jnp.bfloat16, **FAMILIES["resnet18"][0]
    )
    seen = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, SpatialGate | SE):
            seen.append(context.module)
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    assert {(module.dtype, module.bn_group_size, module.size) for module in seen} == {(jnp.bfloat16, 2, 7)}
    seen.clear()
    mine = model.clone(attention=partial(SpatialGate, bn_group_size=4), attention_options={"size": 3})
    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: mine.init(jax.random.key(0), x), images)
    assert {(module.bn_group_size, module.size) for module in seen} == {(4, 3)}


def test_the_documented_example_is_a_network():
    model = _EXAMPLE["model"]
    tree = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 64, 64, 3)))
    assert tree["params"]["layer4_2"]["attention"]["conv"]["kernel"].shape == (3, 3, 2, 1)


def test_names_and_options_go_through_json():
    options = json.loads(json.dumps({"attention": "se", "attention_options": {"reduction": 4, "use_bias": True}}))
    model = eca_jax.create_model("resnet18", **options)
    hash(model)
    built = attention_part("resnet18", **options)
    assert built == attention_part("resnet18", attention=partial(SE, reduction=4, use_bias=True))
    sizes = json.loads(json.dumps({"attention": "eca", "kernel_sizes": (3, 3, 5, 5)}))
    assert sorted(shape[0] for shape in attention_part("resnet18", **sizes).values()) == [3, 3, 5, 5]


@pytest.mark.parametrize("name", MAIN)
def test_weights_with_an_attention_of_ones_own_convert_both_ways(name):
    options = {**FAMILIES[name][0], "num_classes": 3, "attention": "spatial"}
    model = eca_jax.create_model(name, **options)
    tree = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), tree)
    tensors = eca_jax.convert.to_torch(variables, name, **options)
    returned = eca_jax.convert.from_torch(tensors, name, **options)
    jax.tree.map(np.testing.assert_array_equal, returned, variables)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "ecaa"}, "unknown attention 'ecaa': did you mean ec"),
        ({"attention": "transformer"}, "unknown attention 'transformer': there are a2, "),
        ({"attention": "se", "attention_options": {"reductoin": 4}}, "no option 'reductoin': did you mean reduction"),
        ({"attention": partial(SE, kernel=3)}, "SE has no option 'kernel'"),
        ({"attention": None, "attention_options": {"reduction": 4}}, "belong to no attention"),
        ({"attention": ECA(3)}, "a name, a class of flax.linen.Module or a functools.partial"),
        ({"attention": len}, "a name, a class of flax.linen.Module or a functools.partial"),
        ({"kernel_sizes": (3, 3, 3, 3)}, "kernel_sizes belongs to networks with ECA"),
        ({"attention": "se", "kernel_sizes": (3, 3, 3, 3)}, "belongs to networks with ECA, and SE has no kernel_size"),
        ({"attention": partial(ECA, kernel_size=9), "kernel_sizes": (3, 3, 3, 3)}, "own kernel_size=9"),
    ],
)
def test_what_does_not_fit_is_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        shapes("resnet18", **options)
    assert "\n" not in str(error.value)


def test_a_name_is_registered_once_and_for_a_module():
    with pytest.raises(ValueError, match="registered twice"):
        register_attention("eca", SpatialGate)
    with pytest.raises(ValueError, match=r"a class of flax\.linen\.Module"):
        register_attention("length", len)


def test_attentions_are_layers_by_themselves():
    assert {"ceca", "eca", "ecam", "se"} <= set(list_attentions())
    assert list_attentions("*eca") == ["ceca", "eca"]
    x = jnp.ones((2, 4, 4, 16))
    layer = create_attention("se", reduction=4, name="gate")
    assert layer.name == "gate"
    assert layer.init_with_output(jax.random.key(0), x)[0].shape == x.shape
    with pytest.raises(ValueError, match="did you mean reduction"):
        create_attention("se", reducton=4)


def test_accepts_tells_which_options_a_model_has():
    assert accepts("eca_resnet50", "bn_group_size")
    assert not accepts("eca_nfnet_l0", "bn_group_size")
    assert not accepts("mobilenet_v2", "stage_sizes")
    assert all(accepts(name, "attention") for name in eca_jax.models.list_models(task="classification"))
    with pytest.raises(ValueError, match="did you mean"):
        accepts("eca_resnet", "attention")


SHORT = {"stage_sizes": (1, 1, 0, 0), "small_images": True, "num_classes": 3}


@pytest.mark.parametrize(("attention", "path"), [("aa", "conv2"), ("a2", "a2")])
def test_a_resnet_has_places_beside_the_branch(attention, path):
    """In place of a bottleneck's 3x3 convolution, and after a block: by name as everything else."""
    model = eca_jax.create_model("resnet50", attention=attention, **SHORT)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = random_variables(model, image_size=8)
    block = variables["params"]["layer2_0"]
    assert path in block and "kernel" not in block[path]
    plain = eca_jax.create_model("resnet50", **SHORT)
    shared = {key: value for key, value in block.items() if key != path}
    expected = jax.eval_shape(plain.init, jax.random.key(1), images)["params"]["layer2_0"]
    assert shared.keys() == expected.keys() - {path}
    logits = jax.jit(model.apply)(variables, images)
    assert logits.shape == (2, 3) and jnp.all(jnp.isfinite(logits))
    assert jnp.abs(logits[0] - logits[1]).max() > 0


@pytest.mark.parametrize(
    ("name", "attention", "message"),
    [
        ("resnet18", "aa", "in place of a bottleneck's 3x3 convolution, and this network has no such place"),
        ("mobilenet_v2", "aa", "this network has no such place"),
        ("mobilenet_v2", "a2", "after a ResNet's block, and this network has no such place"),
    ],
)
def test_a_place_that_a_network_does_not_have_is_named(name, attention, message):
    model = eca_jax.create_model(name, attention=attention, num_classes=3)
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert "\n" not in str(error.value)
