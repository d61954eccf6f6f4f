"""Every attention by name: sizes, dtypes, gradients, parameters; identities between them; parity with PyTorch's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.layers import BatchNorm, ChannelGate, Conv, conv_norm_gate, create_attention, list_attentions
from eca_jax.layers.attention import resolve_attention
from eca_jax.layers.attention.covariance import covariance
from eca_jax.weights.torch.peer import import_timm

# What the tests of this session registered beside them is not this file's.
NAMES = [name for name in list_attentions() if resolve_attention(name).build.__module__.startswith("eca_jax.")]
GATES = [name for name in NAMES if issubclass(resolve_attention(name).build, ChannelGate)]
NEEDS = {"se_gc1": 16, "se_gc2": 16, "se_gc3": 8}  # what the channels must be a multiple of


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def drawn(layer, x, seed=1):
    """Variables of a layer, none of them as initialised."""
    tree = flatten_dict(jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, False), x))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1] in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        return jnp.asarray(rng.normal(0, fan**-0.5, leaf.shape), jnp.float32)

    return unflatten_dict({path: draw(path, leaf) for path, leaf in tree.items()})


def apply(layer, variables, x, train=False):
    y, updates = layer.apply(variables, x, train, mutable=["batch_stats"])
    return y, updates.get("batch_stats", {})


def with_gradients(layer, variables, x, weights, train):
    """(output, updates), and the gradients of the output times `weights` by the parameters and x."""

    def loss(params, x):
        y, updates = apply(layer, {**variables, "params": params}, x, train)
        return jnp.sum(y.astype(jnp.float32) * weights), (y, updates)

    gradients, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables.get("params", {}), x)
    return outputs, gradients


# For layers that share few operations; what shares most of them takes longer to compile than it does one by one.
compiled = jax.jit(with_gradients, static_argnums=(0, 4))


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


# Parity: PyTorch's module, its tensors by the names of ours, and how ours is asked for.


class TorchUnshared(torch.nn.Module):
    """The release's ECA-NS: taps of neighbouring channels, and a depthwise convolution over them."""

    def __init__(self, channels, k=3):
        super().__init__()
        self.k, self.conv = k, torch.nn.Conv1d(channels, channels, k, bias=False, groups=channels)

    def forward(self, x):
        y = torch.nn.functional.unfold(x.mean((2, 3))[:, None, None], (1, self.k), padding=(0, (self.k - 1) // 2))
        return x * torch.sigmoid(self.conv(y.transpose(1, 2)))[..., None]


class TorchGrouped(torch.nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.conv, self.groups = torch.nn.Conv1d(channels, channels, 1, bias=False, groups=groups), groups

    def forward(self, x):
        return x * torch.sigmoid(self.conv(x.mean((2, 3))[..., None]))[..., None]


class TorchGCT(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        for name in ("alpha", "gamma", "beta"):
            setattr(self, name, torch.nn.Parameter(torch.ones(channels)))

    def forward(self, x):
        e = self.alpha[:, None, None] * (x.pow(2).sum((2, 3), keepdim=True) + 1e-5).sqrt()
        norm = self.gamma[:, None, None] / (e.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        return x * (1 + torch.tanh(e * norm + self.beta[:, None, None]))


class TorchSRM(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight, self.bn = torch.nn.Parameter(torch.zeros(channels, 2)), torch.nn.BatchNorm2d(channels)

    def forward(self, x):
        flat = x.flatten(2)
        t = torch.stack([flat.mean(2), (flat.var(2) + 1e-5).sqrt()], dim=2)
        return x * torch.sigmoid(self.bn((t * self.weight).sum(2)[..., None, None]))


class TorchSimAM(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        d = (x - x.mean((2, 3), keepdim=True)).pow(2)
        return x * torch.sigmoid(d / (4 * (d.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1) + 1e-4)) + 0.5)


class TorchDouble(torch.nn.Module):
    """A² with the other order of its products, which is the same."""

    def __init__(self, channels):
        super().__init__()
        for name in ("a", "b", "v"):
            setattr(self, name, torch.nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.out, self.bn = torch.nn.Conv2d(channels // 2, channels, 1, bias=False), torch.nn.BatchNorm2d(channels)

    def forward(self, x):
        a, b, v = (conv(x).flatten(2) for conv in (self.a, self.b, self.v))
        z = a @ (b.softmax(2).transpose(1, 2) @ v.softmax(1))
        return x + self.bn(self.out(z.unflatten(2, x.shape[2:])))


class TorchGSoP(torch.nn.Module):
    """The covariance as the authors write it, by a matrix of M x M."""

    def __init__(self, channels, d):
        super().__init__()
        self.conv_for_DR, self.bn_for_DR = torch.nn.Conv2d(channels, d, 1), torch.nn.BatchNorm2d(d)
        self.row_bn = torch.nn.BatchNorm2d(d)
        self.row_conv_group = torch.nn.Conv2d(d, 4 * d, (d, 1), groups=d)
        self.fc_adapt_channels = torch.nn.Conv2d(4 * d, channels, 1)

    def forward(self, x):
        u = torch.relu(self.bn_for_DR(self.conv_for_DR(torch.relu(x)))).flatten(2)
        m = u.shape[2]
        centre = torch.eye(m) / m - torch.ones(m, m) / m**2
        rows = (u @ centre @ u.transpose(1, 2))[..., None]
        return x * torch.sigmoid(self.fc_adapt_channels(self.row_conv_group(self.row_bn(rows))))


def timm_layer(name):
    import_timm()
    import timm.layers

    modules = (timm.layers, timm.layers.cbam, timm.layers.coord_attn)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
PARITY = {
    "eca_ns": (TorchUnshared, {}, {}),
    "se_gc1": (partial(TorchGrouped, groups=16), {}, {"conv.weight": "weight"}),
    "se_gc2": (partial(TorchGrouped, groups=2), {}, {"conv.weight": "weight"}),
    "se_gc3": (partial(TorchGrouped, groups=4), {}, {"conv.weight": "weight"}),
    "gct": (TorchGCT, {}, {}),
    "srm": (TorchSRM, {}, {}),
    "simam": (TorchSimAM, {}, {}),
    "a2": (TorchDouble, {}, {}),
    "gsop": (partial(TorchGSoP, d=12), {"reduced": 12}, {}),
    "cbam": (
        lambda channels: timm_layer("CbamModule")(channels, mlp_bias=True),
        {"bn_momentum": 0.9},
        {"channel.": "", "spatial.conv.": ""},
    ),
    "coord": (lambda channels: timm_layer("CoordAttn")(channels), {}, {}),
    "gc": (
        lambda channels: timm_layer("GlobalContext")(channels, fuse_add=True, fuse_scale=False),
        {"reduction": 8, "epsilon": 1e-6},
        {"conv_attn": "mask", "mlp_add.": ""},
    ),
    "gc, scaled": (
        lambda channels: timm_layer("GlobalContext")(channels),
        {"reduction": 8, "epsilon": 1e-6, "fuse": "scale"},
        {"conv_attn": "mask", "mlp_scale.": ""},
    ),
    "ge": (lambda channels: timm_layer("GatherExcite")(channels, use_mlp=False), {}, {}),
    "ge, extent 2": (lambda channels: timm_layer("GatherExcite")(channels, extent=2, use_mlp=False), {"extent": 2}, {}),
    "ge, extent 4": (lambda channels: timm_layer("GatherExcite")(channels, extent=4, use_mlp=False), {"extent": 4}, {}),
}


def ours(name, state_dict, layer, x, renames):
    """The layer's variables from PyTorch's tensors."""
    tree = flatten_dict(jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, False), x))
    tensors = {}
    for key, tensor in state_dict.items():
        for old, new in renames.items():
            key = key.replace(old, new)
        tensors[key] = tensor.detach().numpy()

    def find(path, shape):
        module, leaf = ".".join(path[1:-1]), path[-1]
        names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
        tensor = tensors[".".join(filter(None, (module, names.get(leaf, leaf))))]
        if leaf == "kernel":
            tensor = tensor.transpose(*range(2, tensor.ndim), 1, 0)
            return tensor.reshape(shape)
        if leaf == "weight" and len(shape) == 3:  # a grouped gate: (C, C/G, 1), outputs before inputs
            return tensor.reshape(shape[0], shape[2], shape[1]).transpose(0, 2, 1)
        assert tensor.shape == shape
        return tensor

    variables = unflatten_dict({path: jnp.asarray(find(path, leaf.shape)) for path, leaf in tree.items()})
    if name == "cbam":  # timm gives the mean before the maximum
        variables["params"]["conv"]["kernel"] = variables["params"]["conv"]["kernel"][:, :, ::-1]
    return variables


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("case", PARITY)
def test_parity_with_pytorch(case, train):
    build, options, renames = PARITY[case]
    name = case.split(",")[0]
    torch.manual_seed(0)
    module = build(32).train(train)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                positive = key.endswith("running_var") or (key.endswith("weight") and tensor.ndim == 1)
                tensor.uniform_(0.5, 1.5) if positive else tensor.normal_(0, 0.5)
    # Examples that differ in their means: else BatchNorm over them alone, SRM's, would divide by next to nothing.
    x = random(6, 7, 5, 32) + random(6, 1, 1, 32, seed=7)
    layer = create_attention(name, **options)
    variables = ours(name, module.state_dict(), layer, x, renames)
    theirs = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    weights = random(6, 7, 5, 32, seed=5)
    expected = module(theirs)
    (expected * torch.from_numpy(np.asarray(weights).transpose(0, 3, 1, 2).copy())).sum().backward()

    (y, statistics), (_, gradient) = compiled(layer, variables, x, weights, train)
    for found, wanted in ((y, expected), (gradient, theirs.grad)):
        wanted = wanted.detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    after = ours(name, module.state_dict(), layer, x, renames).get("batch_stats", {})
    for found, wanted in zip(jax.tree.leaves(statistics), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
