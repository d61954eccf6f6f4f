"""A task of a stranger's in one file: which digit an image shows, as a number, and the recipe that trains it.

    eca-jax train tests/tasks/regression.py --workdir=DIR

Nothing of the package knows it. It is the example of docs/extend.md, and test_regression.py holds the loop to it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from sklearn.datasets import load_digits

import eca_jax
from eca_jax.models import Preprocessing
from eca_jax.sharding import gathered
from eca_jax.weights.card import Card


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(32)(x)))[:, 0]


@dataclasses.dataclass
class Regression:
    batch_size: int
    seed: int

    name, best, nominal_examples = "digits as numbers", "r2", 1437
    train_examples, other_batches = 1437, ()
    card = Card("regression", {}, Preprocessing(image_size=8, crop_pct=1.0), task="regression:Regression", best="r2")

    @classmethod
    def from_config(cls, config):
        return cls(config["batch_size"], config["seed"])

    @property
    def batch(self):
        rows = (self.batch_size,)
        shapes = {"pixels": (*rows, 64), "value": rows, "mask": rows}
        return {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}

    def init(self, key):
        return Network().init(key, jnp.zeros((1, 64)))

    def warm_start(self, fresh):
        return None

    def loss(self, variables, batch, key):
        noise = 0.1 * jax.random.normal(key, batch["pixels"].shape)
        errors = jnp.square(Network().apply(variables, batch["pixels"] + noise) - batch["value"])
        return jnp.mean(errors), ({}, {"loss": jnp.sum(errors), "count": jnp.sum(batch["mask"])})

    def outputs(self, variables, batch):
        return {"guess": Network().apply(variables, batch["pixels"]), **batch}

    def train_batches(self, start_step, shard):
        pixels, values = self._split("train")
        rows = self.batch_size // shard.count
        for step in range(start_step, 10**9):
            epoch, place = divmod(step, len(values) // self.batch_size)
            order = np.random.default_rng([self.seed, epoch]).permutation(len(values))
            own = order[place * self.batch_size :][shard.index * rows : (shard.index + 1) * rows]
            yield {"pixels": pixels[own], "value": values[own], "mask": np.ones(rows, np.float32)}

    def eval_batches(self, split, shard):
        pixels, values = self._split(split)
        rows = self.batch_size // shard.count
        for first in range(0, len(values), self.batch_size):
            own = np.arange(first + shard.index * rows, first + (shard.index + 1) * rows)
            mask, own = own < len(values), np.minimum(own, len(values) - 1)
            yield {"pixels": pixels[own], "value": values[own], "mask": mask.astype(np.float32)}

    def meter(self):
        return Meter()

    def describe(self, metrics):
        return ", ".join(f"{key} {value:.3f}" for key, value in metrics.items() if key != "count")

    def _split(self, name):
        digits = load_digits()
        part = slice(0, 1437) if name == "train" else slice(1437, None)
        return digits.data[part].astype(np.float32) / 16, digits.target[part].astype(np.float32)


class Meter:
    """Mean squared error, and the share of the variance that it leaves: r2."""

    def __init__(self):
        self._sums = np.zeros(4)

    def add(self, outputs):
        counts = outputs["mask"] > 0
        value, guess = (outputs[key][counts].astype(np.float64) for key in ("value", "guess"))
        self._sums += (((guess - value) ** 2).sum(), value.sum(), (value**2).sum(), counts.sum())

    def result(self):
        errors, total, squares, count = gathered(self._sums).sum(axis=0).tolist()
        return {"loss": errors / count, "r2": 1 - errors / (squares - total**2 / count), "count": int(count)}


def get_config():
    config = eca_jax.default_config()
    config.task = "regression:Regression"
    config.batch_size = 32
    config.num_epochs = 8
    config.learning_rate = 0.02
    config.schedule.name = "cosine"
    config.ema_decay = 0.9
    config.log_every_steps = 10
    config.checkpoint_every_steps = 10
    config.compilation_cache = ""
    return config
