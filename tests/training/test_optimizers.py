"""The optimisers, clipping, shares of the rate and schedules are PyTorch's and timm's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from eca_jax import create_model
from eca_jax.training import parameters
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.schedules import make_schedule
from eca_jax.weights.torch.peer import import_timm

timm = import_timm()

from timm.optim import create_optimizer_v2, param_groups_layer_decay  # noqa: E402
from timm.scheduler import CosineLRScheduler, StepLRScheduler  # noqa: E402
from timm.utils.agc import adaptive_clip_grad  # noqa: E402

# What the networks have: a kernel, a grouped one, ECA's, a BatchNorm, a standardised convolution's gain, a classifier.
SHAPES = {
    "conv1": {"kernel": (3, 3, 4, 8)},
    "grouped": {"kernel": (3, 3, 2, 8), "gain": (8,)},
    "eca": {"kernel": (3, 1, 1)},
    "bn1": {"scale": (8,), "bias": (8,)},
    "fc": {"kernel": (8, 5), "bias": (5,)},
}
AXES = {4: (3, 2, 0, 1), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}
STEPS = 50


def tree(rng, scale=1.0):
    return {
        layer: {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in leaves.items()}
        for layer, leaves in SHAPES.items()
    }


def as_torch(name, value):
    """A value with PyTorch's axes; timm's gains have four."""
    value = np.transpose(value, AXES[value.ndim])
    return torch.tensor(value.reshape(-1, 1, 1, 1) if name == "gain" else value.copy())


def leaves(values):
    return [(name, values[layer][name]) for layer in sorted(values) for name in sorted(values[layer])]


def rate_of(step):
    return 0.02 * 0.5 ** (step // 20)


def after_steps(optimizer, theirs_of, scale=1.0):
    """The largest difference of any parameter to PyTorch's after the steps."""
    rng = np.random.default_rng(0)
    params = tree(rng)
    theirs = [torch.nn.Parameter(as_torch(name, value)) for name, value in leaves(params)]
    torch_optimizer = theirs_of(theirs)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(STEPS):
        gradients = tree(rng, scale)
        updates, state = update(gradients, state, params)
        params = jax.tree.map(np.add, params, updates)
        for parameter, (name, gradient) in zip(theirs, leaves(gradients), strict=True):
            parameter.grad = as_torch(name, gradient)
        for group in torch_optimizer.param_groups:
            group["lr"] = rate_of(step)
        torch_optimizer.step()
    pairs = zip(theirs, leaves(params), strict=True)
    return max(float((theirs - as_torch(name, ours)).abs().max()) for theirs, (name, ours) in pairs)


def ours(name, **options):
    schedule = make_schedule(
        name="step", learning_rate=0.02, num_epochs=9, steps_per_epoch=20, decay_epochs=1, decay_rate=0.5
    )
    return make_optimizer(schedule, name=name, weight_decay=0.05, decay_kernels_only=True, **options)


def timms(name, **options):
    def create(params):
        decayed = [p for p in params if p.ndim > 1]
        groups = [{"params": decayed}, {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0}]
        return create_optimizer_v2(groups, opt=name, lr=0.02, weight_decay=0.05, filter_bias_and_bn=False, **options)

    return create


@pytest.mark.parametrize(
    ("name", "options", "theirs", "their_options", "tolerance"),
    [
        ("lamb", {}, "lamb", {}, 5e-6),
        ("lars", {}, "lars", {"momentum": 0.9}, 1e-6),
        ("lars", {"nesterov": True}, "nlars", {"momentum": 0.9}, 1e-6),
        ("rmsprop_tf", {}, "rmsproptf", {"momentum": 0.9, "eps": 1e-3}, 1e-6),
        ("adamw", {}, "adamw", {}, 5e-6),
        ("sgd", {}, "momentum", {"momentum": 0.9}, 2e-6),
        ("sgd", {"nesterov": True}, "sgd", {"momentum": 0.9}, 2e-6),
    ],
)
def test_an_optimizer_is_timms(name, options, theirs, their_options, tolerance):
    assert after_steps(ours(name, **options), timms(theirs, **their_options)) <= tolerance


def test_the_rate_goes_into_the_momentum_as_tensorflow_has_it():
    """v <- 0.9 v + rate g, w <- w - v: a rate that falls leaves what was gathered as it is."""
    optimizer = make_optimizer(lambda step: jnp.where(step < 1, 1.0, 0.0), momentum=0.9, rate_in_momentum=True)
    params = {"fc": {"kernel": jnp.ones((1, 1))}}
    state = optimizer.init(params)
    for expected in (-1.0, -0.9, -0.81):
        updates, state = optimizer.update(params, state, params)
        np.testing.assert_allclose(updates["fc"]["kernel"], [[expected]], rtol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 1e3])
def test_gradients_are_clipped_by_their_norm_as_pytorch_clips_them(limit):
    gradients = tree(np.random.default_rng(0))
    theirs = [torch.nn.Parameter(torch.zeros_like(as_torch(name, value))) for name, value in leaves(gradients)]
    for parameter, (name, gradient) in zip(theirs, leaves(gradients), strict=True):
        parameter.grad = as_torch(name, gradient)
    torch.nn.utils.clip_grad_norm_(theirs, limit)
    optimizer = make_optimizer(lambda step: -1.0, momentum=0.0, max_norm=limit)
    found, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    for parameter, (name, value) in zip(theirs, leaves(found), strict=True):
        np.testing.assert_allclose(as_torch(name, value), parameter.grad, rtol=1e-5)


def test_adaptive_clipping_is_timms_and_spares_the_classifier():
    rng = np.random.default_rng(0)
    params, gradients = tree(rng, 0.1), tree(rng)
    params["conv1"]["kernel"][..., 0] = 0.0  # below the least norm
    optimizer = make_optimizer(lambda step: -1.0, momentum=0.0, clip_adaptively=0.02)
    found, _ = optimizer.update(gradients, optimizer.init(params), params)
    for (name, value), (_, gradient), (_, clipped) in zip(
        leaves(params), leaves(gradients), leaves(found), strict=True
    ):
        parameter = torch.nn.Parameter(as_torch(name, value))
        parameter.grad = as_torch(name, gradient)
        if value.shape not in (SHAPES["fc"]["kernel"], SHAPES["fc"]["bias"]):
            adaptive_clip_grad([parameter], 0.02)
        np.testing.assert_allclose(as_torch(name, clipped), parameter.grad, atol=1e-6)


def test_parameters_learn_at_the_shares_of_the_first_pattern():
    params = tree(np.random.default_rng(0))
    optimizer = make_optimizer(lambda step: -1.0, momentum=0.0, rates=(("fc/bias", 0.0), ("fc/", 10.0)), frozen=("bn",))
    found, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(found["fc"]["kernel"], 10 * params["fc"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(found["conv1"]["kernel"], params["conv1"]["kernel"])
    assert not np.any(found["fc"]["bias"]) and not np.any(found["bn1"]["scale"])
    wrong = make_optimizer(lambda step: 1.0, rates=(("head/", 2.0),))
    with pytest.raises(ValueError, match="'head/', and no parameter"):
        wrong.update(params, wrong.init(params), params)


def test_a_frozen_parameter_counts_in_no_norm():
    params = {"conv1": {"kernel": jnp.full((2, 2), 1e6)}, "fc": {"bias": jnp.full(1, 0.5)}}
    optimizer = make_optimizer(lambda step: -1.0, momentum=0.0, max_norm=1.0, frozen=("conv1",))
    found, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(found["fc"]["bias"], 0.5)


def test_the_rate_falls_from_layer_to_layer_as_timm_counts_them():
    theirs = timm.create_model("ecaresnet26t")
    scales = {}
    groups = param_groups_layer_decay(theirs, layer_decay=0.7)
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    for group in groups:
        scales |= {names[id(parameter)]: group["lr_scale"] for parameter in group["params"]}
    shapes = jax.eval_shape(lambda: create_model("ecaresnet26t").init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    shares = parameters.shares(shapes["params"], (), 0.7)
    assert len({*jax.tree.leaves(shares)}) == len({*scales.values()}) == 10  # stem, 8 blocks, classifier
    for block in ("layer1_0", "layer1_1", "layer2_0", "layer3_1", "layer4_1"):
        assert shares[block]["conv1"]["kernel"] == pytest.approx(scales[f"{block.replace('_', '.')}.conv1.weight"])
    assert shares["conv1_0"]["kernel"] == pytest.approx(scales["conv1.0.weight"])
    assert shares["fc"]["bias"] == scales["fc.bias"] == 1
    with pytest.raises(ValueError, match="cannot be told apart"):
        parameters.shares({"dense": {"kernel": jnp.ones((1, 1))}}, (), 0.7)


def timm_rates(scheduler, epochs):
    found = []
    for epoch in range(epochs):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)
    return found


def sgd(rate):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize("form", ["timm", "epoch"])
def test_the_cosine_is_timms_epoch_by_epoch(form):
    length = 20 if form == "timm" else 15  # a prefixed warm-up comes before timm's cosine
    theirs = CosineLRScheduler(
        sgd(0.5), length, lr_min=1e-3, warmup_t=5, warmup_lr_init=1e-4, warmup_prefix=form == "epoch"
    )
    schedule = make_schedule(
        name="cosine", form=form, learning_rate=0.5, num_epochs=23, steps_per_epoch=7, warmup_epochs=5,
        warmup_rate=1e-4, cooldown_epochs=3, min_rate=1e-3,
    )  # fmt: skip
    expected = timm_rates(theirs, 23)
    for within in (0, 6):
        np.testing.assert_allclose([schedule(7 * e + within) for e in range(23)], expected, atol=1e-7)


@pytest.mark.parametrize("std", [1.0, 0.3])
def test_the_noise_of_the_rate_is_timms(std):
    theirs = StepLRScheduler(
        sgd(0.08), decay_t=1, decay_rate=0.98, warmup_t=3, warmup_lr_init=1e-6, warmup_prefix=False,
        noise_range_t=[16.0, 36.0], noise_pct=0.67, noise_std=std, noise_seed=7,
    )  # fmt: skip
    schedule = make_schedule(
        name="step", form="timm", learning_rate=0.08, num_epochs=43, steps_per_epoch=3, warmup_epochs=3,
        warmup_rate=1e-6, decay_epochs=1, decay_rate=0.98, cooldown_epochs=3, noise=(0.4, 0.9), noise_std=std, seed=7,
    )  # fmt: skip
    expected = timm_rates(theirs, 43)
    assert np.ptp(expected[16:36] / (0.08 * 0.98 ** np.arange(16, 36))) > std / 2
    for rates in ([schedule(3 * e + 2) for e in range(43)], jax.jit(jax.vmap(schedule))(3 * np.arange(43))):
        np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_the_steps_of_2_4_epochs_are_timms():
    theirs = StepLRScheduler(
        sgd(0.048), decay_t=2.4, decay_rate=0.97, warmup_t=3, warmup_lr_init=1e-6, warmup_prefix=False
    )
    schedule = make_schedule(
        name="step", form="timm", learning_rate=0.048, num_epochs=60, steps_per_epoch=3, warmup_epochs=3,
        warmup_rate=1e-6, decay_epochs=2.4, decay_rate=0.97,
    )  # fmt: skip
    expected = timm_rates(theirs, 60)
    np.testing.assert_allclose([schedule(3 * e) for e in range(60)], expected, rtol=1e-6)
    on_device = jax.jit(jax.vmap(schedule))(3 * np.arange(60))
    np.testing.assert_allclose(on_device, expected, rtol=1e-6)


def test_warm_up_and_cosine_are_torchvisions():
    optimizer = sgd(0.5)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=25, eta_min=0.0)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[5])
    expected = []
    for _ in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    schedule = make_schedule(
        name="cosine", form="epoch", learning_rate=0.5, num_epochs=30, steps_per_epoch=4, warmup_epochs=5,
        warmup_rate=0.005,
    )  # fmt: skip
    np.testing.assert_allclose([schedule(4 * e + 1) for e in range(30)], expected, atol=1e-7)


def test_a_polynomial_falls_with_its_power_after_the_warm_up():
    schedule = make_schedule(
        name="polynomial", learning_rate=16.0, num_epochs=10, steps_per_epoch=10, warmup_epochs=2, min_rate=1e-4
    )
    np.testing.assert_allclose([schedule(s) for s in (0, 9, 19, 60, 100)], [0.8, 8, 16, 4.0, 1e-4], rtol=1e-4)


@pytest.mark.parametrize("noise", [(0.4,), (0.9, 0.4)])
def test_noise_that_cannot_be_is_an_error(noise):
    with pytest.raises(ValueError, match="noise takes two shares"):
        make_schedule(name="step", learning_rate=0.1, num_epochs=9, steps_per_epoch=3, noise=noise)


@pytest.mark.parametrize("bad", [{"name": "adam"}, {"name": "sgd", "layer_decay": 0.0}])
def test_an_optimizer_that_cannot_be_is_an_error(bad):
    with pytest.raises(ValueError, match=r"unknown optimizer|layer_decay"):
        make_optimizer(lambda step: 0.1, **bad)
