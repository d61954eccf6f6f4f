"""The recipes of the paper's detectors, as narrow networks on small canvases."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from eca_jax import sharding
from eca_jax.config import load_recipe
from eca_jax.sharding import data_mesh
from eca_jax.tasks.task import create_task
from eca_jax.training.program import build

LOSSES = {
    "retinanet": {"classification", "bbox_regression"},
    "faster_rcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"},
    "mask_rcnn": {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"},
}


def program_of(kind):
    config = load_recipe(f"{kind}_eca_resnet50_fpn")
    assert tuple(config.detection.canvas) == (800, 1344) and create_task(config).model.preset.name == "mmdet1"
    config.model_overrides.backbone = "eca_resnet18"
    config.model_overrides.backbone_options = {"stage_sizes": (1, 1, 1, 1)}
    config.model_overrides.kernel_sizes = "adaptive"
    config.model_overrides.width = 16
    config.model_overrides.rule_options = {"rpn_before_train": 20, "rpn_after_train": 10, "box_samples": 8}
    config.dataset, config.image_size, config.batch_size, config.schedule.warmup_epochs = "shapes", 64, 2, 0.0
    config.detection.canvas, config.detection.objects = (64, 96), 4
    return build(create_task(config), config, data_mesh(), steps_per_epoch=100)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_recipe_has_the_losses_of_its_detector(kind):
    program = program_of(kind)
    key = jax.eval_shape(lambda: jax.random.key(0))
    _, (_, sums) = jax.eval_shape(program.task.loss, program.state.variables, program.batch, key)
    assert set(sums) == LOSSES[kind] | {"loss", "count"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOSSES)
def test_a_step_of_a_recipe_moves_what_is_not_frozen(kind):
    program = program_of(kind)
    rng = np.random.default_rng(0)

    def drawn(leaf):
        values = np.asarray(rng.normal(0, 0.05, leaf.shape), leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    state = jax.tree.map(drawn, program.state)
    ones, nothing = jax.numpy.ones_like, jax.numpy.zeros_like
    state = state.replace(
        collections=jax.tree.map(ones, state.collections), opt_state=jax.tree.map(nothing, state.opt_state)
    )
    before = {path: np.array(value) for path, value in flatten_dict(state.params).items()}
    batch = next(program.task.train_batches(0, sharding.own_shard()))
    assert batch["valid"].any()
    state, sums = program.train_step(state, jax.device_put(batch, sharding.split(program.mesh)))
    assert float(sums["count"]) == 2 and all(np.isfinite(float(value)) for value in sums.values())
    for path, value in flatten_dict(state.params).items():
        frozen = path[0] == "body" and path[1].startswith(("conv1", "bn1", "layer1_"))
        assert np.array_equal(value, before[path]) == frozen, path
