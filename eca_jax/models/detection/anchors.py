"""Anchors: boxes of fixed sizes and shapes at every cell of every level, in the order (y, x, anchor)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax.models.detection.rules import Rules

RATIOS = (0.5, 1.0, 2.0)


def rpn_cells(strides: Sequence[int], rules: Rules) -> list[np.ndarray]:
    """Cell anchors of the RPN, float32 [3, 4] a level: one size in three shapes (height / width)."""
    return [_cells((rules.rpn_scale * stride,), stride, rules) for stride in strides]


def retina_cells(strides: Sequence[int], rules: Rules) -> list[np.ndarray]:
    """Cell anchors of RetinaNet, float32 [9, 4] a level: three shapes in three sizes, a third of an octave apart."""
    levels = []
    for stride in strides:
        scales = [4 * stride * 2 ** (third / 3) for third in range(3)]
        levels.append(_cells([int(scale) for scale in scales] if rules.retina_octaves else scales, stride, rules))
    return levels


def _cells(scales: Sequence[float], stride: int, rules: Rules) -> np.ndarray:
    """[ratios * scales, 4], rounded to integers, half to even."""
    heights = np.sqrt(np.array(RATIOS, np.float32))
    widths = 1 / heights
    sides = np.array(scales, np.float32)
    width = (widths[:, None] * sides).reshape(-1)
    height = (heights[:, None] * sides).reshape(-1)
    if rules.anchors == "corner":
        return np.round(np.stack([-width, -height, width, height], axis=1) / 2)
    centre, half_width, half_height = np.float32(0.5 * (stride - 1)), 0.5 * (width - 1), 0.5 * (height - 1)
    corners = (centre - half_width, centre - half_height, centre + half_width, centre + half_height)
    return np.round(np.stack(corners, axis=1)).astype(np.float32)


def grid_sizes(padded: jax.Array, stride: int) -> jax.Array:
    """Rows and columns int32 [N, 2] of the cells that images of padded size [N, 2] have at a stride."""
    return -(-padded // stride)


def level_anchors(
    cells: np.ndarray, stride: int, canvas: tuple[int, int], padded: jax.Array, rules: Rules
) -> tuple[jax.Array, jax.Array]:
    """Anchors of one level over the canvas.

    torchvision's cells lie padded size // grid apart, which beyond stride 32 is not the stride (800 rows have 13 at
    stride 64, 61 apart), so that anchors are a function of each image's padded size.

    Args:
      cells: float32 [A, 4].
      canvas: height and width of the images' array.
      padded: int32 [N, 2], each image's height and width rounded up to a multiple of 32.

    Returns:
      boxes float32 [N, H * W * A, 4], and whether each lies in its image's grid, bool [N, H * W * A].
    """
    rows, columns = (math.ceil(size / stride) for size in canvas)
    grid = grid_sizes(padded, stride)
    step = padded // grid if rules.anchors == "corner" else jnp.full_like(padded, stride)
    y = jnp.arange(rows) * step[:, :1]
    x = jnp.arange(columns) * step[:, 1:]
    y, x = jnp.broadcast_arrays(y[:, :, None], x[:, None, :])
    shifts = jnp.stack([x, y, x, y], axis=-1).astype(jnp.float32)
    boxes = shifts[:, :, :, None, :] + cells
    inside = (jnp.arange(rows) < grid[:, :1])[:, :, None] & (jnp.arange(columns) < grid[:, 1:])[:, None, :]
    inside = jnp.broadcast_to(inside[..., None], boxes.shape[:-1])
    return boxes.reshape(len(padded), -1, 4), inside.reshape(len(padded), -1)
