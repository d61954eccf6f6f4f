"""What the channel gates of a network do on a split: sums of their weights by class, in one pass and constant memory.

By interception of `ChannelGate.gate`, which every form of a network calls, folded or not: the models carry no code for
it. Programs return one row for each example; they are added up on the host in float64, so that the figures are the same
on any number of devices.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from eca_jax import kernels, sharding
from eca_jax.data import prefetch_to_device
from eca_jax.data.batch import IMAGE, LABEL, MASK
from eca_jax.tasks.accuracy import Accuracy
from eca_jax.tasks.classification import Classification
from eca_jax.tasks.task import Batch, Variables

REPLACEMENTS = ("mean gate", "permuted gate", "constant 0.5")


@dataclasses.dataclass(frozen=True)
class Gate:
    """Sums over the examples of a split, float64.

    Attributes:
      weights: of the gate's weights, by class [K, C].
      squares: of their squares [C].
      pooled: of the descriptors that went in [C].
    """

    weights: np.ndarray
    squares: np.ndarray
    pooled: np.ndarray


@dataclasses.dataclass(frozen=True)
class GateStatistics:
    """What `gate_statistics` finds.

    Attributes:
      counts: examples of each class, [K].
      gates: by block ("layer4_2"), in the order in which the network runs them.
      metrics: "loss", "top1", "top5" and "count" of the split.
      examples: the first image of each class asked for, by label: uint8 [H, W, C]; of this process's part of the split.
    """

    counts: np.ndarray
    gates: Mapping[str, Gate]
    metrics: Mapping[str, Any]
    examples: Mapping[int, np.ndarray]

    def mean(self, block: str, label: int | None = None) -> np.ndarray:
        """The mean weight of each channel over the split, or over a class of it; NaN for a class without examples."""
        sums = self.gates[block].weights
        if label is None:
            return sums.sum(axis=0) / self.counts.sum()
        return sums[label] / self.counts[label] if self.counts[label] else np.full(sums.shape[1], np.nan)

    def descriptor(self, block: str) -> np.ndarray:
        """The mean descriptor that goes into the gate, [C]."""
        return self.gates[block].pooled / self.counts.sum()

    def specificity(self, block: str) -> float:
        """How much the gate's weights tell of the class: the between-class share of their variance, mean over channels.

        η² = Σ_k n_k (m_k - m)² / Σ_i (s_i - m)² of each channel, between 0 and 1; channels that never change are left
        out, and where all are, it is 0.
        """
        seen = self.counts > 0
        count, by_class = self.counts[seen, None], self.gates[block].weights[seen]
        mean = by_class.sum(axis=0) / count.sum()
        total = self.gates[block].squares - count.sum() * mean**2
        between = (count * (by_class / count - mean) ** 2).sum(axis=0)
        # Weights are float32 and at most about 1: what is below their rounding is no variance.
        varies = total > 1e-12 * count.sum()
        return float((between[varies] / total[varies]).mean()) if varies.any() else 0.0

    @property
    def chance(self) -> float:
        """What `specificity` would be on average if weights had nothing to do with classes: (K - 1) / (N - 1)."""
        return float((np.count_nonzero(self.counts) - 1) / max(self.counts.sum() - 1, 1))


def gate_statistics(task: Classification, variables: Variables, examples: Sequence[int] = ()) -> GateStatistics:
    """One pass over the validation split on all devices of all processes, every example once.

    Args:
      examples: labels of which an image is kept.

    Raises:
      ValueError: the network has no attention with a gate of channels, or the batch does not divide over the devices.
    """
    _check_gates(task, variables)
    sums: dict[str, list[np.ndarray]] = {}
    counts = np.zeros(task.model.num_classes)
    accuracy = Accuracy()
    kept: dict[int, np.ndarray] = {}
    for batch in _over_split(task, functools.partial(_observe, task), variables):
        accuracy.add(batch)
        used = batch[MASK] > 0
        labels = batch[LABEL][used]
        for label in set(examples) - set(kept):
            if (found := np.flatnonzero(used & (batch[LABEL] == label))).size:
                kept[label] = batch[IMAGE][found[0]]
        np.add.at(counts, labels, 1)
        for block, weights in batch["weights"].items():
            if block not in sums:
                channels = weights.shape[1]
                sums[block] = [np.zeros((len(counts), channels)), np.zeros(channels), np.zeros(channels)]
            rows = weights[used].astype(np.float64)
            by_class, squares, pooled = sums[block]
            for label in np.unique(labels):
                by_class[label] += rows[labels == label].sum(axis=0)
            squares += (rows**2).sum(axis=0)
            pooled += batch["pooled"][block][used].sum(axis=0, dtype=np.float64)
    total = {block: Gate(*(sharding.gathered(array).sum(axis=0) for array in arrays)) for block, arrays in sums.items()}
    return GateStatistics(sharding.gathered(counts).sum(axis=0), total, accuracy.result(), kept)


def replaced_gates(
    task: Classification, variables: Variables, statistics: GateStatistics, blocks: Sequence[str], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Top-1 with a block's gate replaced: what of it matters to the accuracy. A pass over the split for each figure.

    "mean gate" is the mean over the split, the same for every image: what is lost is what the gate knows of the image;
    "permuted gate" hands each weight to another channel, "constant 0.5" none to any.

    Returns:
      {block: {replacement: top-1}}, and "all blocks" beside the blocks.
    """
    random, names = np.random.default_rng(seed), list(statistics.gates)
    means = {name: statistics.mean(name).astype(np.float32) for name in names}
    orders = {name: random.permutation(len(means[name])).astype(np.int32) for name in names}
    observe = functools.partial(_with_replacement, task, names)
    found: dict[str, dict[str, float]] = {}
    program = _program(observe)
    for block in [*blocks, "all blocks"]:
        chosen = np.array([block in (name, "all blocks") for name in names])
        found[block] = {}
        for number, replacement in enumerate(REPLACEMENTS):
            accuracy = Accuracy()
            how = {"chosen": chosen, "number": np.int32(number), "means": means, "orders": orders}
            for batch in _over_split(task, observe, {"variables": variables, "how": how}, program):
                accuracy.add(batch)
            found[block][replacement] = accuracy.result()["top1"]
    return found


def channel_kernels(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The learned filters along the channels, {"layer1_0/eca/conv": float32 [k]}; empty without ECA."""
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    named = {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}
    return {
        name.removesuffix("/kernel"): leaf[:, 0, 0]
        for name, leaf in named.items()
        if name.endswith("/kernel") and leaf.ndim == 3 and leaf.shape[1:] == (1, 1)
    }


def autocorrelation(values: np.ndarray, lags: int) -> np.ndarray:
    """Of a sequence [C] about its mean, at lags 1 to `lags`; 1 would be at lag 0. NaN for a constant sequence."""
    centred = np.asarray(values, np.float64) - np.mean(values)
    power = np.sum(centred**2)
    if power == 0:
        return np.full(lags, np.nan)
    return np.array([np.sum(centred[lag:] * centred[:-lag]) / power for lag in range(1, lags + 1)])


def permutation_band(values: np.ndarray, lags: int, draws: int = 200, seed: int = 0) -> np.ndarray:
    """2.5 % and 97.5 % of the `autocorrelation` of random permutations of the channels, [2, lags]."""
    random = np.random.default_rng(seed)
    drawn = [autocorrelation(random.permutation(values), lags) for _ in range(draws)]
    return np.quantile(drawn, [0.025, 0.975], axis=0)


def intercept_gates(change: Callable[[str, jax.Array, jax.Array], jax.Array]) -> Any:
    """A context in which each gate's weights are what `change(block, descriptor, weights)` returns."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name != "gate":
            return out
        return change("/".join(context.module.path[:-1]), args[0], out)

    return nn.intercept_methods(intercept)


def _observe(task: Classification, variables: Variables, batch: Batch) -> dict[str, Any]:
    weights, pooled = {}, {}

    def note(block: str, descriptor: jax.Array, out: jax.Array) -> jax.Array:
        weights[block], pooled[block] = out, descriptor
        return out

    with intercept_gates(note):
        outputs = task.outputs(variables, batch)
    return {**outputs, "weights": weights, "pooled": pooled, LABEL: batch[LABEL], IMAGE: batch[IMAGE]}


def _with_replacement(task: Classification, names: list[str], given: Any, batch: Batch) -> dict[str, Any]:
    how = given["how"]

    def replace(block: str, descriptor: jax.Array, out: jax.Array) -> jax.Array:
        mean = jnp.broadcast_to(how["means"][block], out.shape)
        others = [mean, out[:, how["orders"][block]], jnp.full_like(out, 0.5)]
        return jnp.where(how["chosen"][names.index(block)], jnp.stack(others)[how["number"]], out)

    with intercept_gates(replace):
        return dict(task.outputs(given["variables"], batch))


def _check_gates(task: Classification, variables: Variables) -> None:
    found = []

    def note(block: str, descriptor: jax.Array, out: jax.Array) -> jax.Array:
        found.append(block)
        return out

    with intercept_gates(note):
        jax.eval_shape(task.outputs, variables, dict(task.batch))
    if not found:
        raise ValueError(f"{task.name} has no attention with a gate of channels to look at")


def _program(observe: Callable[..., Any], mesh: Mesh | None = None) -> kernels.Program:
    mesh = mesh or sharding.data_mesh()
    split = sharding.split(mesh)
    return kernels.jit(observe, rows=1, in_shardings=(sharding.replicated(mesh), split), out_shardings=split)


def _over_split(
    task: Classification, observe: Callable[..., Any], given: Any, program: kernels.Program | None = None
) -> Iterator[dict[str, Any]]:
    """This process's rows of what `observe(given, batch)` returns, batch by batch, read one behind the devices."""
    mesh = sharding.data_mesh()
    sharding.check_divides(task.batch_size, mesh)
    program = program or _program(observe, mesh)
    given, previous = jax.device_put(given, sharding.replicated(mesh)), None
    batches = task.eval_batches("validation", sharding.own_shard())
    for batch in prefetch_to_device(batches, sharding.split(mesh)):
        results = program(given, batch)
        if previous is not None:
            yield jax.tree.map(sharding.own_rows, previous)
        previous = results
    if previous is not None:
        yield jax.tree.map(sharding.own_rows, previous)
