"""Mixing, erasing and stochastic depth stay on their chip, and cost little: the TPU's program of a step with them."""

import re

import pytest

import eca_jax
from eca_jax.tasks.task import create_task
from eca_jax.tpu import hlo
from eca_jax.tpu.estimate import compile_program
from eca_jax.tpu.topology import tpu_slice
from eca_jax.training.program import build

pytestmark = pytest.mark.slow
COLLECTIVE = re.compile(r" (all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter)(?:-start)?\(")
MIXED = {"mix": {"mixup": 0.2, "cutmix": 1.0}, "erase": {"probability": 0.25}, "loss": {"name": "binary"}}


def compiled(stage_sizes, **changes):
    """(text, estimate) of the step of a small network on four chips."""
    config = eca_jax.default_config()
    config.update({"model": "eca_resnet18", "num_classes": 10, "dtype": "bfloat16", "loss": {"name": "binary"}})
    own = changes.pop("model_overrides", {})
    config.update({"model_overrides": {"stage_sizes": stage_sizes, **own}, **changes})
    slice_ = tpu_slice("v5e:2x2")
    program = build(create_task(config), config, slice_.mesh(), 100)
    executable, estimate = compile_program(slice_, program.train_step, program.state, program.batch)
    return executable.as_text(), estimate


def test_nothing_of_an_image_travels():
    def collectives(**changes):
        text, estimate = compiled((1, 1, 0, 0), image_size=32, batch_size=64, bn_group_size=8, **changes)
        return sorted(COLLECTIVE.findall(text)), sum(estimate.all_reduces)

    plain, size = collectives()
    assert set(plain) == {"all-reduce"}  # of the gradients, the statistics and the sums
    changes = {**MIXED, "model_overrides": {"drop_path": 0.1, "dropout": 0.2}}
    assert collectives(**changes) == (plain, size)  # nor a word about the end of a loop
    found, found_size = collectives(**changes, microbatches=2)
    assert set(found) == {"all-reduce"}
    # In parts the gradients may be summed over the chips once a part, and no more than that.
    assert found_size <= 2 * size + 4096


def test_mixing_and_erasing_cost_few_passes_over_the_images():
    """Of which the step of `rsb_a2` is over four hundred. Taken out of their layout and back, they are six more."""
    shape = {"image_size": 224, "batch_size": 512, "bn_group_size": 64}
    text, plain = compiled((1, 0, 0, 0), **shape)
    images = [i.cycles for i, _ in hlo.parse(text).executed() if i.shape.startswith("bf16[128,224,224,3]")]
    _, mixed = compiled((1, 0, 0, 0), **shape, **MIXED)
    assert plain.cycles < mixed.cycles < plain.cycles + 3 * max(images)
