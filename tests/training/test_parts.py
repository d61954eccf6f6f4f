"""A batch that goes through the network in parts makes the update of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eca_jax.layers.attention import ECA
from eca_jax.layers.conv import Conv, Dense
from eca_jax.layers.fold import conv_norm_gate
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.inputs import Preprocessing
from eca_jax.models.network import BY_ROW, ROW
from eca_jax.tasks.classification import Classification
from eca_jax.tasks.mix import Mix
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.program import check_parts
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_train_step
from eca_jax.weights.card import Card

SIZE, CLASSES, EXAMPLES, GROUP = 4, 5, 256, 64


class Network(nn.Module):
    """The smallest with what a part could break: groups of BatchNorm, a folded gate, draws by rows."""

    num_classes: int = CLASSES
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x, train=False):
        norm = BatchNorm(group_size=GROUP, name="norm")
        x = conv_norm_gate(x, Conv(8, 1, name="conv"), norm, ECA(name="eca"), train=train)
        return Dense(CLASSES, name="fc")(jnp.mean(nn.relu(x), axis=(1, 2)))


@pytest.fixture(scope="module")
def task():
    card = Card("network", {}, Preprocessing(image_size=SIZE))
    return Classification(Network(), card, EXAMPLES, open_source=None, mix=Mix(mixup=0.5, cutmix=1.0, group=8))


def stepped(task, microbatches, devices):
    optimizer = make_optimizer(lambda step: 0.1)
    variables = dict(task.init(jax.random.key(0)))
    params = variables.pop("params")
    state = TrainState(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (EXAMPLES, SIZE, SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, EXAMPLES, dtype=np.int32),
        # Some are masked, and more of them in later parts.
        "mask": (np.arange(EXAMPLES) % 37 > np.arange(EXAMPLES) // 64).astype(np.float32),
    }
    step = make_train_step(task, optimizer, seed=0, microbatches=microbatches, devices=devices)
    return *jax.jit(step)(state, batch), batch["mask"].sum()


@pytest.fixture(scope="module")
def whole(task):
    return stepped(task, 1, 1)


@pytest.mark.parametrize(("microbatches", "devices"), [(4, 1), (2, 2)])
def test_parts_make_the_update_of_the_whole_batch(task, whole, microbatches, devices):
    """Within a millionth of each array's size."""
    state, sums, _ = stepped(task, microbatches, devices)
    expected, expected_sums, count = whole

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())

    jax.tree.map(close, state.variables, expected.variables)
    jax.tree.map(close, sums, expected_sums)
    assert float(sums["count"]) == count < EXAMPLES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn_group_size": 0}, "needs a bn_group_size"),
        ({"microbatches": 3}, "does not divide"),
        ({"bn_group_size": 16}, "of whole groups"),
        ({"microbatches": 0}, "at least 1"),
    ],
)
def test_parts_that_would_cut_a_group_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_parts({"microbatches": 4, "batch_size": 64, "bn_group_size": 8, **changes}, devices=2)


class Masked(nn.Module):
    """With dropout of one's own, and beside it a draw that a network of the package makes by rows."""

    num_classes: int = CLASSES
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x, train=False):
        drawn = self.variable("batch_stats", "drawn", jnp.zeros, ())
        drawn.value = jax.random.uniform(self.make_rng("dropout" + BY_ROW))
        return nn.Dropout(0.5)(jnp.ones((len(x), CLASSES)), not train) + self.param("bias", nn.initializers.zeros, ())


def test_dropout_of_ones_own_has_a_mask_of_its_own_in_each_part():
    task = Classification(Masked(), Card("masked", {}, Preprocessing(image_size=SIZE)), 8, open_source=None)
    batch = {"image": jnp.zeros((8, SIZE, SIZE, 3), jnp.uint8), "label": jnp.zeros(8, jnp.int32), "mask": jnp.ones(8)}
    variables = {"params": {"bias": jnp.zeros(())}, "batch_stats": {"drawn": jnp.zeros(())}}
    loss = jax.jit(lambda rows: task.loss(variables, {**batch, ROW: rows}, jax.random.key(0)))
    (first, (drawn, _)), (second, (drawn_again, _)) = (loss(jnp.arange(start, start + 8)) for start in (0, 8))
    assert first != second
    assert drawn["batch_stats"]["drawn"] == drawn_again["batch_stats"]["drawn"]
