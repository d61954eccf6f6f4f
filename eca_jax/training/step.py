"""The training step of any task, as a pure function of (state, batch)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from eca_jax.tasks.task import Batch, Sums, Task, Variables
from eca_jax.training.state import TrainState


def make_train_step(
    task: Task, optimizer: optax.GradientTransformation, *, seed: int, ema_decay: float = 0.0
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """`step(state, batch) -> (state, sums)`: one update on the task's loss.

    The sums are the task's, and "gradient_norm", the Euclidean norm of all gradients.

    Its key is fold_in(seed, step), so that a resumed run draws what the uninterrupted one would have.
    The moving average, where the state has one, follows the new variables by
    ema <- d * ema + (1 - d) * new with d = min(ema_decay, (1 + step) / (10 + step)).
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(params: Variables) -> tuple[jax.Array, tuple[Variables, Sums]]:
            return task.loss({"params": params, **state.collections}, batch, key)

        (_, (changed, sums)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        sums = {**sums, "gradient_norm": optax.tree.norm(gradients)}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        collections = {**state.collections, **changed}
        ema = state.ema
        if ema is not None:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            new = {"params": params, **collections}
            ema = jax.tree.map(lambda average, value: decay * average + (1 - decay) * value, ema, new)
        return TrainState(state.step + 1, params, collections, opt_state, ema), sums

    return step
