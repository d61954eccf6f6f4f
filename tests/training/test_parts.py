"""A batch that goes through the network in parts makes the update of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax import create_model
from eca_jax.models.inputs import Preprocessing
from eca_jax.tasks.classification import Classification
from eca_jax.training.optimizer import make_optimizer
from eca_jax.training.program import check_parts
from eca_jax.training.state import TrainState
from eca_jax.training.step import make_train_step
from eca_jax.weights.card import Card

SIZE, CLASSES, EXAMPLES, GROUP = 8, 5, 16, 4


@pytest.fixture(scope="module")
def task():
    options = {"num_classes": CLASSES, "stage_sizes": (1, 0, 0, 0), "small_images": True}
    model = create_model("eca_resnet18", bn_group_size=GROUP, **options)
    return Classification(
        model, Card("eca_resnet18", options, Preprocessing(image_size=SIZE)), EXAMPLES, open_source=None
    )


def stepped(task, microbatches, devices):
    optimizer = make_optimizer(lambda step: 0.1)
    variables = dict(jax.jit(task.init)(jax.random.key(0)))
    params = variables.pop("params")
    state = TrainState(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params))
    rng = np.random.default_rng(0)
    mask = np.ones(EXAMPLES, np.float32)
    mask[[1, 2, 3, 9]] = 0  # so that parts have different counts
    batch = {
        "image": rng.integers(0, 256, (EXAMPLES, SIZE, SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, EXAMPLES, dtype=np.int32),
        "mask": mask,
    }
    return jax.jit(make_train_step(task, optimizer, seed=0, microbatches=microbatches, devices=devices))(state, batch)


@pytest.fixture(scope="module")
def whole(task):
    return stepped(task, 1, 1)


@pytest.mark.parametrize(("microbatches", "devices"), [pytest.param(4, 1, marks=pytest.mark.slow), (2, 2)])
def test_parts_make_the_update_of_the_whole_batch(task, whole, microbatches, devices):
    state, sums = stepped(task, microbatches, devices)
    expected, expected_sums = whole
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-7)  # noqa: E731
    jax.tree.map(close, state.variables, expected.variables)
    jax.tree.map(close, state.opt_state, expected.opt_state)
    jax.tree.map(close, sums, expected_sums)
    assert float(sums["count"]) == EXAMPLES - 4


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
