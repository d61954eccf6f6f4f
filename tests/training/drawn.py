"""Run by test_drawn.py in a process of its own, which may be one of several: prints what training steps see, as JSON.

    python drawn.py CONFIG DATA_DIR KEYS_OF_THE_CONFIG_AS_JSON FIRST_STEP STEPS [COORDINATOR PROCESSES RANK]

The program is training's own, of a network that learns nothing and keeps what it is given: the images after
augmentation, mixing, erasing and normalisation, and what stochastic depth and dropout leave of them.
"""

import dataclasses
import hashlib
import itertools
import json
import runpy
import sys

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eca_jax import sharding
from eca_jax.data import prefetch_to_device
from eca_jax.models.network import Network
from eca_jax.tasks.task import create_task
from eca_jax.training.program import build
from eca_jax.training.runtime import distributed

EPOCH_STEPS, BLOCKS = 6, 5


class Keeping(Network):
    """Logits of the means; the collection "batch_stats" has what a training step saw."""

    batch_size: int = 8
    image_size: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        shapes = {
            "images": (self.batch_size, self.image_size, self.image_size, 3),
            "kept": (self.batch_size, BLOCKS - 1),
            "undropped": (self.batch_size, 3),
        }
        seen = {name: self.variable("batch_stats", name, jnp.zeros, shape) for name, shape in shapes.items()}
        if train:
            seen["images"].value = x.astype(jnp.float32)
            seen["kept"].value = jnp.stack(self._kept(x, BLOCKS, train)[1:], axis=1)
            seen["undropped"].value = self._undropped(x, train)
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


def main():
    path, data_dir, keys, first, steps, *place = sys.argv[1:]
    if place:
        coordinator, processes, rank = place
        distributed.initialize(coordinator, int(processes), int(rank))
    config = runpy.run_path(path)["get_config"]()
    config.update({"data_dir": data_dir, **json.loads(keys)})
    task = create_task(config)
    rates = {"drop_path": 0.5, "dropout": 0.5}
    network = Keeping(num_classes=task.model.num_classes, batch_size=config.batch_size, **rates)
    program = build(dataclasses.replace(task, model=network), config, sharding.data_mesh(), EPOCH_STEPS)
    batches = program.task.train_batches(int(first), sharding.own_shard())
    state = program.init().replace(step=np.int32(first))
    found = []
    for batch in itertools.islice(prefetch_to_device(batches, sharding.split(program.mesh)), int(steps)):
        state, sums = program.train_step(state, batch)
        seen = {name: np.asarray(value) for name, value in state.collections["batch_stats"].items()}
        found.append({name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in seen.items()})
        found[-1] |= {"mean": float(np.abs(seen["images"]).mean()), "kept": seen["kept"].tolist()}
        found[-1] |= {"count": float(sums["count"])}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
