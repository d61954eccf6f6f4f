"""The step computes what PyTorch's loss, optimizer and schedules compute, and metrics that count each example once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from eca_jax.models.inputs import Preprocessing, normalize
from eca_jax.tasks.accuracy import Accuracy, metric_sums
from eca_jax.tasks.classification import Classification
from eca_jax.tasks.losses import cross_entropy
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.schedules import make_schedule
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_train_step
from eca_jax.weights.card import Card

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nn.Module):
    """The smallest module with all that a model brings: parameters, running statistics, dropout, a dtype."""

    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(jnp.mean(x, (1, 2)))
        return nn.Dense(7)(nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(16)(x))))


def start(optimizer, ema=False):
    variables = Network().init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    params, collections = variables["params"], {"batch_stats": variables["batch_stats"]}
    average = {"params": params, **collections} if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, collections, optimizer.init(params), average)


def some_batch(seed=0, examples=6):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (examples, 4, 4, 3), dtype=np.uint8),
        "label": rng.integers(0, 7, examples, dtype=np.int32),
        "mask": np.ones(examples, np.float32),
    }


def task(**options):
    """Classification by the network above, without data."""
    card = Card("network", {"num_classes": 7}, Preprocessing(image_size=4))
    return Classification(Network(), card, batch_size=6, open_source=None, **options)


def train_step(optimizer, seed=0, **options):
    return jax.jit(make_train_step(task(), optimizer, seed=seed, **options))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_images_are_normalised_as_torchvision_normalises_them():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    expected = (image / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalize(image, MEAN, STD, jnp.float32), expected, atol=1e-6)
    assert normalize(image, MEAN, STD, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_pytorchs(smoothing):
    logits = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    labels = np.arange(9) % 5
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
    )
    np.testing.assert_allclose(cross_entropy(logits, labels, smoothing), expected.numpy(), rtol=1e-6)


def test_metrics_rank_as_a_stable_sort_ranks_and_leave_masked_examples_out():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 6, (200, 12)).astype(np.float32)  # integers: plenty of ties
    labels, mask = rng.integers(0, 12, 200), rng.integers(0, 2, 200).astype(np.float32)
    losses = np.where(mask, rng.random(200), np.nan).astype(np.float32)  # of a masked example, no loss may count
    order = np.argsort(-logits, axis=1, kind="stable")
    rank = np.argmax(order == labels[:, None], axis=1)
    sums = metric_sums(jnp.asarray(logits), labels, losses, mask)
    assert float(sums["top1"]) == np.sum(mask * (rank < 1))
    assert float(sums["top5"]) == np.sum(mask * (rank < 5))
    assert float(sums["count"]) == mask.sum()
    np.testing.assert_allclose(sums["loss"], np.nansum(losses), rtol=1e-6)


def test_a_prediction_that_is_not_a_number_is_wrong():
    sums = metric_sums(jnp.full((4, 3), jnp.nan), np.zeros(4, np.int32), np.zeros(4), np.ones(4))
    assert float(sums["top1"]) == 0


def test_a_masked_example_has_no_part_in_the_update_but_its_batch_statistics():
    optimizer = make_optimizer(lambda step: 0.1)
    batch = some_batch()
    batch["mask"][2] = 0
    other = {**batch, "label": batch["label"].copy()}
    other["label"][2] = (batch["label"][2] + 1) % 7
    step = train_step(optimizer)
    (state, sums), (other_state, other_sums) = step(start(optimizer), batch), step(start(optimizer), other)
    assert_equal(state, other_state)
    assert_equal(sums, other_sums)
    assert float(sums["count"]) == 5


def test_a_batch_of_nothing_changes_no_parameter():
    optimizer = make_optimizer(lambda step: 0.1)
    batch = {**some_batch(), "mask": np.zeros(6, np.float32)}
    state, sums = train_step(optimizer)(start(optimizer), batch)
    assert_equal(state.params, start(optimizer).params)
    assert float(sums["count"]) == float(sums["loss"]) == 0


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs_under_a_schedule(nesterov):
    schedule = make_schedule(name="step", learning_rate=0.1, num_epochs=9, steps_per_epoch=2, decay_epochs=2)
    optimizer = make_optimizer(schedule, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(4, 3)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in params.items()}
    sgd = torch.optim.SGD(theirs.values(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    epochs = torch.optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.1)
    state = optimizer.init(params)
    for step in range(10):
        gradients = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in params.items()}
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(np.add, params, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name])
        sgd.step()
        if step % 2:
            epochs.step()
    for name, parameter in theirs.items():
        np.testing.assert_allclose(params[name], parameter.detach().numpy(), rtol=1e-5)


def test_weight_decay_can_spare_everything_but_kernels():
    params = {"fc": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "bn": {"scale": jnp.ones(2)}}
    optimizer = make_optimizer(lambda step: 1.0, weight_decay=0.5, decay_kernels_only=True)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    assert np.all(updates["fc"]["kernel"] == -0.5)
    assert not np.any(updates["fc"]["bias"]) and not np.any(updates["bn"]["scale"])


def test_the_papers_schedules_are_constant_within_an_epoch():
    resnet = make_schedule(name="step", learning_rate=0.1, num_epochs=100, steps_per_epoch=10)
    rates = [resnet(epoch * 10 + 9) for epoch in (0, 29, 30, 59, 60, 99)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.0001], rtol=1e-6)
    mobilenet = make_schedule(
        name="step", learning_rate=0.045, num_epochs=400, steps_per_epoch=10, decay_epochs=1, decay_rate=0.98
    )
    for step in (0, 9, 10, 3999):
        np.testing.assert_allclose(mobilenet(step), 0.045 * 0.98 ** (step // 10), rtol=1e-5)


def test_cosine_warms_up_linearly_and_ends_at_zero():
    schedule = make_schedule(name="cosine", learning_rate=0.4, num_epochs=10, steps_per_epoch=10, warmup_epochs=2)
    np.testing.assert_allclose([schedule(s) for s in (0, 9, 19)], [0.02, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(schedule(60), 0.2, rtol=1e-6)  # half way between epochs 2 and 10
    np.testing.assert_allclose(schedule(100), 0.0, atol=1e-9)


@pytest.mark.parametrize("name", ["step", "cosine"])
def test_a_schedule_is_the_same_on_host_and_device(name):
    schedule = make_schedule(name=name, learning_rate=0.4, num_epochs=10, steps_per_epoch=10, warmup_epochs=1)
    steps = np.arange(100)
    on_host = [schedule(int(step)) for step in steps]
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(steps), on_host, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [{"name": "linear"}, {"name": "cosine", "warmup_epochs": 10}])
def test_a_schedule_that_cannot_be_is_an_error(bad):
    with pytest.raises(ValueError, match=r"schedule|warm-up"):
        make_schedule(learning_rate=0.1, num_epochs=10, steps_per_epoch=10, **bad)


def test_dropout_follows_seed_and_step():
    optimizer = make_optimizer(lambda step: 0.0)
    batch, state = some_batch(), start(optimizer)
    step = train_step(optimizer)
    loss = float(step(state, batch)[1]["loss"])
    assert float(step(state, batch)[1]["loss"]) == loss
    assert float(step(state.replace(step=jnp.int32(1)), batch)[1]["loss"]) != loss
    assert float(train_step(optimizer, seed=1)(state, batch)[1]["loss"]) != loss


def test_the_average_follows_parameters_and_statistics():
    optimizer = make_optimizer(lambda step: 0.1)
    before = start(optimizer, ema=True)
    after, _ = train_step(optimizer, ema_decay=0.99)(before, some_batch())
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, before.ema, after.variables)  # (1 + 0) / (10 + 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.ema, expected)


@pytest.mark.parametrize(("warmup", "decays"), [("timm", (0.0, 1 - 2 ** (-2 / 3))), ("none", (0.0, 0.99))])
def test_the_average_follows_as_timms_does(warmup, decays):
    optimizer = make_optimizer(lambda step: 0.1)
    step, state = train_step(optimizer, ema_decay=0.99, ema_warmup=warmup), start(optimizer, ema=True)
    for decay in decays:
        after, _ = step(state, some_batch())
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, state.ema, after.variables)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.ema, expected)
        state = after
    with pytest.raises(ValueError, match="unknown ema_warmup"):
        train_step(optimizer, ema_warmup="torch")


def test_evaluation_uses_running_statistics_and_plain_cross_entropy():
    optimizer = make_optimizer(lambda step: 0.1)
    state, batch = start(optimizer), some_batch()
    meter = task(label_smoothing=0.3).meter()
    meter.add(jax.tree.map(np.asarray, task(label_smoothing=0.3).outputs(state.variables, batch)))
    metrics = meter.result()
    logits = Network().apply(state.variables, normalize(batch["image"], MEAN, STD, jnp.float32))
    losses = torch.nn.functional.cross_entropy(torch.tensor(np.asarray(logits)), torch.tensor(batch["label"]).long())
    np.testing.assert_allclose(metrics["loss"], losses.item(), rtol=1e-5)
    assert metrics["top1"] == np.mean(np.argmax(logits, 1) == batch["label"])
    assert metrics["count"] == 6


def test_a_meter_leaves_masked_examples_out():
    meter = Accuracy()
    for rank in (np.array([0, 4, 7]), np.array([0, 5, 0])):
        mask = np.array([1, 1, 0], np.float32)
        meter.add({"loss": np.array([1, 2, np.nan], np.float32), "rank": rank, "mask": mask})
    assert meter.result() == {"loss": 1.5, "top1": 0.5, "top5": 0.75, "count": 4}
