"""Boxes x1 y1 x2 y2 in pixels, float32 [..., 4]: sizes, overlaps, and their coding against other boxes.

A box is x2 - x1 + `offset` wide: 0 everywhere but in mmdetection 1 (`Rules.offset`).
"""

import math

import jax
import jax.numpy as jnp

from eca_jax.models.detection.rules import Four

# Deltas of sizes are clamped here: a box of 16 pixels grows to 1000 at most.
LARGEST_DELTA = math.log(1000 / 16)


def sizes(boxes: jax.Array, offset: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Widths and heights, each [...], of boxes [..., 4]."""
    return boxes[..., 2] - boxes[..., 0] + offset, boxes[..., 3] - boxes[..., 1] + offset


def areas(boxes: jax.Array, offset: float = 0.0) -> jax.Array:
    """Areas [...] of boxes [..., 4]."""
    width, height = sizes(boxes, offset)
    return width * height


def iou(a: jax.Array, b: jax.Array, offset: float = 0.0) -> jax.Array:
    """Intersection over union of boxes [..., N, 4] and [..., M, 4]: [..., N, M]; 0 where both are empty."""
    a, b = a[..., :, None, :], b[..., None, :, :]

    def side(low: int, high: int) -> jax.Array:
        length = jnp.minimum(a[..., high], b[..., high]) - jnp.maximum(a[..., low], b[..., low])
        return jnp.maximum(length + offset, 0.0)

    shared = side(0, 2) * side(1, 3)
    union = areas(a, offset) + areas(b, offset) - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1.0), 0.0)


def clip(boxes: jax.Array, size: jax.Array, offset: float = 0.0) -> jax.Array:
    """Boxes [..., K, 4] inside images of `size` [..., 2] (h, w): up to w - `offset` and h - `offset`."""
    height, width = size[..., 0, None] - offset, size[..., 1, None] - offset
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    limits = ((x1, width), (y1, height), (x2, width), (y2, height))
    return jnp.stack([jnp.clip(value, 0.0, limit) for value, limit in limits], axis=-1)


def encode(boxes: jax.Array, anchors: jax.Array, weights: Four = (1, 1, 1, 1), offset: float = 0.0) -> jax.Array:
    """Deltas dx dy dw dh [..., 4] that `decode` turns back into `boxes`, for anchors of the same shape."""
    width, height = sizes(anchors, offset)
    box_width, box_height = sizes(boxes, offset)
    dx = (_centre(boxes, 0) - _centre(anchors, 0)) / width
    dy = (_centre(boxes, 1) - _centre(anchors, 1)) / height
    deltas = (dx, dy, jnp.log(box_width / width), jnp.log(box_height / height))
    return jnp.stack([weight * delta for weight, delta in zip(weights, deltas, strict=True)], axis=-1)


def decode(
    deltas: jax.Array,
    anchors: jax.Array,
    weights: Four = (1, 1, 1, 1),
    offset: float = 0.0,
    clamp_below: bool = False,
) -> jax.Array:
    """Boxes [..., 4] from deltas and anchors [..., 4], in float32.

    The sizes' deltas are clamped at ln(1000 / 16), and with `clamp_below` at its negative too.
    """
    deltas = deltas.astype(jnp.float32)
    width, height = sizes(anchors, offset)
    dx, dy, dw, dh = (deltas[..., i] / weights[i] for i in range(4))
    least = -LARGEST_DELTA if clamp_below else -jnp.inf
    dw, dh = (jnp.clip(delta, least, LARGEST_DELTA) for delta in (dw, dh))
    x, y = dx * width + _centre(anchors, 0), dy * height + _centre(anchors, 1)
    half_width, half_height = 0.5 * (jnp.exp(dw) * width - offset), 0.5 * (jnp.exp(dh) * height - offset)
    return jnp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def _centre(boxes: jax.Array, axis: int) -> jax.Array:
    return boxes[..., axis] + 0.5 * (boxes[..., axis + 2] - boxes[..., axis])
