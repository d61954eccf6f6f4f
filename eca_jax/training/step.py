"""The training step and the evaluation step, as pure functions of (state, batch).

A batch is {"image": uint8 [N, H, W, 3], "label": int32 [N], "mask": float32 [N]}; mask 0 marks an example that does not
count: an undecodable image in training, padding of the last batch in evaluation. Metrics are sums over the examples
that count: {"loss", "top1", "top5", "count"}, float32 scalars.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from eca_jax.models.inputs import normalize
from eca_jax.training.state import TrainState, Variables

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy [N] of float32 logits [N, K] with int labels [N], as PyTorch's `label_smoothing` defines it.

    The target is 1 - label_smoothing on the label plus label_smoothing / K on every class.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * jnp.mean(log_probabilities, axis=1)
    return losses


def metric_sums(logits: jax.Array, labels: jax.Array, losses: jax.Array, mask: jax.Array) -> Sums:
    """Loss, top-1, top-5 and count, summed over the examples whose mask is not 0.

    The label's rank is the number of classes ahead of it, equal logits in order of class, as a stable sort ranks them:
    a comparison and a sum instead of a sort. A NaN is never a correct answer.
    """
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=1)
    tied_before = (logits == of_label) & (jnp.arange(logits.shape[1]) < labels[:, None])
    rank = jnp.sum(~(logits <= of_label) | tied_before, axis=1)
    return {
        "loss": jnp.sum(jnp.where(mask > 0, losses, 0.0)),
        "top1": jnp.sum(mask * (rank < 1)),
        "top5": jnp.sum(mask * (rank < 5)),
        "count": jnp.sum(mask),
    }


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    label_smoothing: float = 0.0,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """`step(state, batch) -> (state, sums)`: one update on the mean loss of the batch.

    Dropout draws from fold_in(seed, step), so that a resumed run draws what the uninterrupted one would have.
    The moving average, where the state has one, follows the new variables by
    ema <- d * ema + (1 - d) * new with d = min(ema_decay, (1 + step) / (10 + step)).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        images = normalize(batch["image"], mean, std, model.dtype)
        labels, mask = batch["label"], batch["mask"]
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)

        def mean_loss(params: Variables) -> tuple[jax.Array, tuple]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            losses = cross_entropy(logits, labels, label_smoothing)
            sums = metric_sums(logits, labels, losses, mask)
            return sums["loss"] / jnp.maximum(sums["count"], 1.0), (sums, updated.get("batch_stats", {}))

        (_, (sums, batch_stats)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            new = {"params": params, "batch_stats": batch_stats}
            ema = jax.tree.map(lambda average, value: decay * average + (1 - decay) * value, ema, new)
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), sums

    return step


def make_eval_step(
    model: nn.Module, *, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Variables, Batch], Sums]:
    """`step(variables, batch) -> sums`: the model's plain cross-entropy and accuracy, with running statistics."""

    def step(variables: Variables, batch: Batch) -> Sums:
        logits = model.apply(variables, normalize(batch["image"], mean, std, model.dtype), train=False)
        losses = cross_entropy(logits, batch["label"])
        return metric_sums(logits, batch["label"], losses, batch["mask"])

    return step
