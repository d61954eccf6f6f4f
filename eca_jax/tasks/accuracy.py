"""How right a classifier's answers are: ranks of labels among the logits, and their means over a data set."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax.data.batch import MASK
from eca_jax.sharding import gathered
from eca_jax.tasks.task import Sums


class Accuracy:
    """A `Meter`: means of "loss", "top1" and "top5" over the "count" examples whose mask is not 0."""

    def __init__(self) -> None:
        self._sums = np.zeros(4)

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        counts = outputs[MASK] > 0
        loss, rank = outputs["loss"][counts].astype(np.float64), outputs["rank"][counts]
        self._sums += (loss.sum(), (rank < 1).sum(), (rank < 5).sum(), counts.sum())

    def result(self) -> dict[str, float]:
        *sums, count = gathered(self._sums).sum(axis=0).tolist()
        means = dict(zip(("loss", "top1", "top5"), (value / max(count, 1.0) for value in sums), strict=True))
        return means | {"count": int(count)}


def nearest_label(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Labels int32 [N]; of several that are all right, [N, K] filled up with -1, the one of the highest logit."""
    if labels.ndim == 1:
        return labels
    of_labels = jnp.take_along_axis(logits, jnp.maximum(labels, 0), axis=1)
    best = jnp.argmax(jnp.where(labels < 0, -jnp.inf, of_labels), axis=1)
    return jnp.maximum(jnp.take_along_axis(labels, best[:, None], axis=1)[:, 0], 0)


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The number of classes ahead of the label's, int32 [N], for logits [N, K].

    Equal logits rank in the order of the classes, as a stable sort ranks them: a comparison and a sum instead of a
    sort. A NaN is never a correct answer.
    """
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=1)
    tied_before = (logits == of_label) & (jnp.arange(logits.shape[1]) < labels[:, None])
    return jnp.sum(~(logits <= of_label) | tied_before, axis=1)


def metric_sums(logits: jax.Array, labels: jax.Array, losses: jax.Array, mask: jax.Array) -> Sums:
    """Loss, top-1, top-5 and count, summed over the examples whose mask is not 0."""
    rank = label_rank(logits, labels)
    return {
        "loss": jnp.sum(jnp.where(mask > 0, losses, 0.0)),
        "top1": jnp.sum(mask * (rank < 1)),
        "top5": jnp.sum(mask * (rank < 5)),
        "count": jnp.sum(mask),
    }
