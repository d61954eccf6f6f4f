"""Mixing, erasing and stochastic depth stay on their chip: the TPU's program moves no image for them."""

import re

import pytest

import eca_jax
from eca_jax.tasks.task import create_task
from eca_jax.tpu.estimate import compile_program
from eca_jax.tpu.topology import tpu_slice
from eca_jax.training.program import build

pytestmark = pytest.mark.slow
COLLECTIVE = re.compile(r" (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)(?:-start)?\(")


def collectives(**changes):
    config = eca_jax.default_config()
    config.update({"model": "eca_resnet18", "image_size": 32, "num_classes": 10, "batch_size": 64, "bn_group_size": 8})
    config.update({"dtype": "bfloat16", "model_overrides": {"stage_sizes": (1, 1, 0, 0)}, **changes})
    slice_ = tpu_slice("v5e:2x2")
    program = build(create_task(config), config, slice_.mesh(), 100)
    compiled, estimate = compile_program(slice_, program.train_step, program.state, program.batch)
    return sorted(COLLECTIVE.findall(compiled.as_text())), sum(estimate.all_reduces)


def test_nothing_of_an_image_travels():
    plain, size = collectives()
    assert set(plain) == {"all-reduce"}  # of the gradients, the statistics and the sums
    changes = {
        "mix": {"mixup": 0.2, "cutmix": 1.0},
        "erase": {"probability": 0.25},
        "loss": {"name": "binary"},
        "microbatches": 2,
    }
    changes["model_overrides"] = {"stage_sizes": (1, 1, 0, 0), "drop_path": 0.1}
    found, found_size = collectives(**changes)
    assert set(found) == {"all-reduce"}
    # In parts the gradients may be summed over the chips once a part, and no more than that.
    assert found_size <= 2 * size + 4096
