"""Which ground truth an anchor or a proposal is trained on, and which of them are trained."""

import jax
import jax.numpy as jnp
from jax import lax

from eca_jax.models.detection.boxes import iou

BACKGROUND, IGNORED = -1, -2


def match(
    truths: jax.Array,
    truth_valid: jax.Array,
    boxes: jax.Array,
    box_valid: jax.Array,
    *,
    positive: float,
    negative: float,
    least: float | None = None,
    best_to_own: bool = False,
    offset: float = 0.0,
) -> jax.Array:
    """For each box the object it is matched to, or `BACKGROUND`, or `IGNORED`: int32 [K].

    A box takes the object it overlaps most (the first of equals) from an IoU of `positive` on, is background below
    `negative`, and is ignored between. Where `least` is given, all boxes that overlap an object as much as any does,
    by at least `least`, are matched too: to their own best object, or with `best_to_own` to that object, the last
    one in doubt. Boxes that are not valid are ignored and count in no maximum; nor do objects that are not.

    Args:
      truths: [G, 4]; truth_valid: bool [G].
      boxes: [K, 4]; box_valid: bool [K].
    """
    real = truth_valid[:, None] & box_valid
    overlaps = jnp.where(real, iou(truths, boxes, offset), -1.0)
    best, index = jnp.max(overlaps, axis=0), jnp.argmax(overlaps, axis=0)
    # Without any object the best is -1: background.
    matched = jnp.where(best >= positive, index, jnp.where(best < negative, BACKGROUND, IGNORED))
    if least is not None:
        highest = jnp.max(overlaps, axis=1, keepdims=True)
        at_best = real & (overlaps == highest) & (highest >= least)
        if best_to_own:  # the last one's number says too whether there is one: a pass over all pairs less
            last = jnp.max(jnp.where(at_best, jnp.arange(truths.shape[0])[:, None], -1), axis=0)
            matched = jnp.where(last >= 0, last, matched)
        else:
            matched = jnp.where(jnp.any(at_best, axis=0), index, matched)
    return jnp.where(box_valid, matched, IGNORED).astype(jnp.int32)


def sample(
    positive: jax.Array, negative: jax.Array, priority: jax.Array, count: int, most: int
) -> tuple[jax.Array, jax.Array]:
    """Up to `count` boxes: at most `most` of the positive ones, the rest negative, without replacement.

    Args:
      positive, negative: bool [K].
      priority: float [K] above -1, highest first: uniform random numbers draw uniformly.

    Returns:
      indices int32 [count], positive ones first, and which of them are chosen, bool [count].
    """
    total = positive.shape[0]
    _, objects = lax.top_k(jnp.where(positive, priority, -1.0), min(most, total))
    _, others = lax.top_k(jnp.where(negative, priority, -1.0), min(count, total))
    objects_there = jnp.minimum(jnp.sum(positive), objects.shape[0])
    others_there = jnp.minimum(jnp.sum(negative), count - objects_there)
    chosen = jnp.concatenate([jnp.arange(len(objects)) < objects_there, jnp.arange(len(others)) < others_there])
    indices = jnp.concatenate([objects, others])
    # The chosen ones first, in their order.
    order = jnp.argsort(~chosen, stable=True)[:count]
    missing = count - len(order)
    return jnp.pad(indices[order], (0, missing)), jnp.pad(chosen[order], (0, missing))
