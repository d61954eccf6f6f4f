"""The training step of any task, as a pure function of (state, batch)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from eca_jax.tasks.task import EPOCH, ROW, Batch, Sums, Task, Variables
from eca_jax.training import parameters
from eca_jax.training.state import TrainState

EMA_WARMUPS = ("tf", "timm", "none")

# Gradients, changed collections and sums of one pass.
_Pass = tuple[Variables, Variables, Sums]


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float = 0.0,
    ema_warmup: str = "tf",
    microbatches: int = 1,
    devices: int = 1,
    steps_per_epoch: int = 1,
    frozen: Sequence[str] = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """`step(state, batch) -> (state, sums)`: one update on the task's loss.

    The sums are the task's, and "gradient_norm", the Euclidean norm of all gradients. Parameters whose path matches one
    of the patterns `frozen` have a gradient of zero, which takes no pass backwards.

    Its key is fold_in(seed, step), so that a resumed run draws what the uninterrupted one would have.
    The moving average, where the state has one, follows the new variables by ema <- d * ema + (1 - d) * new, where d
    depends on the number n of updates before this one: "tf" min(ema_decay, (1 + n) / (10 + n)), "timm"
    min(ema_decay, 1 - (1 + n) ** (-2 / 3)), "none" ema_decay, but 0 in the first update.

    With `microbatches` the batch goes through the network in so many parts, one after the other, and the update is
    that of the whole batch: gradients are the parts' by the examples that count, and each part's running statistics
    start from those before the step, of which the mean is taken. A part is made of consecutive examples of each of
    `devices`, so that groups of BatchNorm and of mixing stay what they are where they divide it.

    The task is told the epoch, which has `steps_per_epoch`.

    Raises:
      ValueError: unknown `ema_warmup`; when it is traced, a batch that does not divide.
    """
    if ema_warmup not in EMA_WARMUPS:
        raise ValueError(f"unknown ema_warmup {ema_warmup!r}: choose one of {', '.join(EMA_WARMUPS)}")

    def one(state: TrainState, batch: Batch, key: jax.Array) -> _Pass:
        def loss(params: Variables) -> tuple[jax.Array, tuple[Variables, Sums]]:
            whole = {**batch, EPOCH: state.step // steps_per_epoch}
            return task.loss({"params": params, **state.collections}, whole, key)

        (_, (changed, sums)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        if frozen:
            still = parameters.matching(gradients, frozen)
            gradients = jax.tree.map(lambda g, is_still: jnp.zeros_like(g) if is_still else g, gradients, still)
        return gradients, changed, sums

    def parts(state: TrainState, batch: Batch, key: jax.Array) -> _Pass:
        examples = len(next(iter(batch.values())))
        if examples % (devices * microbatches):
            raise ValueError(f"a batch of {examples} does not divide into {microbatches} parts on {devices} devices")
        rows = {**batch, ROW: jnp.arange(examples)}

        def split(values: jax.Array) -> jax.Array:
            shape = (devices, microbatches, examples // devices // microbatches, *values.shape[1:])
            return jnp.moveaxis(values.reshape(shape), 1, 0)

        def add(total: _Pass, part: Batch) -> tuple[_Pass, None]:
            whole = {name: values.reshape(-1, *values.shape[2:]) for name, values in part.items()}
            gradients, changed, sums = one(state, whole, key)
            gradients = jax.tree.map(lambda gradient: gradient * sums["count"], gradients)
            return jax.tree.map(jnp.add, total, (gradients, changed, sums)), None

        split_batch = {name: split(values) for name, values in rows.items()}
        first = {name: values[0].reshape(-1, *values.shape[3:]) for name, values in split_batch.items()}
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, state, first, key))
        (gradients, changed, sums), _ = jax.lax.scan(add, zeros, split_batch)
        count = jnp.maximum(sums["count"], 1.0)
        gradients = jax.tree.map(lambda gradient: gradient / count, gradients)
        return gradients, jax.tree.map(lambda total: total / microbatches, changed), sums

    def decay_of(step: jax.Array) -> jax.Array:
        if ema_warmup == "tf":
            return jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        if ema_warmup == "timm":
            return jnp.minimum(ema_decay, 1.0 - (1.0 + step) ** (-2 / 3))
        return jnp.where(step == 0, 0.0, ema_decay)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients, changed, sums = (one if microbatches == 1 else parts)(state, batch, key)
        sums = {**sums, "gradient_norm": optax.tree.norm(gradients)}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        collections = {**state.collections, **changed}
        ema = state.ema
        if ema is not None:
            decay = decay_of(state.step)
            new = {"params": params, **collections}
            ema = jax.tree.map(lambda average, value: decay * average + (1 - decay) * value, ema, new)
        return TrainState(state.step + 1, params, collections, opt_state, ema), sums

    return step
