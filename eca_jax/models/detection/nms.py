"""Non-maximum suppression as a fixed point, exact and of static shape."""

import jax
import jax.numpy as jnp
from jax import lax

from eca_jax.models.detection.boxes import iou


def suppress(
    boxes: jax.Array, valid: jax.Array, groups: jax.Array | None, threshold: float, offset: float = 0.0
) -> jax.Array:
    """Which boxes a greedy suppression keeps: bool [K].

    A box is kept where it is valid and no kept box before it, of its group, overlaps it by more than `threshold`.
    Passes over that rule from "all are kept" settle at least one more box each, and for 1000 proposals end after
    5 to 10.

    Args:
      boxes: [K, 4], best first.
      valid: bool [K].
      groups: int [K]; boxes of two groups do not see each other. None is one group.
    """
    count = boxes.shape[0]
    before = jnp.arange(count)[:, None] < jnp.arange(count)
    overlaps = (iou(boxes, boxes, offset) > threshold) & before
    if groups is not None:
        overlaps &= groups[:, None] == groups

    def changed(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return state[1]

    def one_pass(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept = state[0]
        new = valid & ~jnp.any(overlaps & kept[:, None], axis=0)
        return new, jnp.any(new != kept)

    return lax.while_loop(changed, one_pass, (valid, jnp.any(valid)))[0]


def nms(
    boxes: jax.Array, scores: jax.Array, groups: jax.Array, threshold: float, limit: int, offset: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """The best `limit` boxes that suppression within groups leaves, best first; of equal scores the first comes first.

    Args:
      boxes: float32 [K, 4].
      scores: float32 [K]; -inf marks places without a box.
      groups: int [K].

    Returns:
      indices int32 [limit], and which of them are boxes, bool [limit].
    """
    ranked, order = lax.top_k(scores, scores.shape[0])
    kept = suppress(boxes[order], ranked > -jnp.inf, groups[order], threshold, offset)
    indices, found = first(kept, limit)
    return order[indices], found


def first(chosen: jax.Array, limit: int) -> tuple[jax.Array, jax.Array]:
    """Places of the first `limit` true values of bool [K]: int32 [limit], and which of them there are, bool [limit]."""
    count = min(limit, chosen.shape[0])
    found, indices = lax.top_k(chosen.astype(jnp.int32), count)
    missing = limit - count
    return jnp.pad(indices, (0, missing)), jnp.pad(found.astype(bool), (0, missing))
