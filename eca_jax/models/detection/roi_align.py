"""ROIAlign over a feature pyramid (He et al., "Mask R-CNN", ICCV 2017), in chunks of regions.

A region's samples lie on a grid, so bilinear interpolation, the mean of a bin's samples and the rule at the border are
one matrix for rows and one for columns: a chunk gathers the cells of its grids and multiplies twice. For two images of
1000 regions a TPU would write and read back 14.5 GB with all regions at once, and 2.1 GB in chunks of 125.

On maps of a few hundred cells nothing is gathered: the two matrices reach over the whole map.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eca_jax.models.detection.boxes import areas, sizes
from eca_jax.models.detection.rules import Rules

CHUNK = 125
# Cells of the largest map up to which nothing is gathered.
WHOLE_MAPS = 1024


def levels(boxes: jax.Array, rules: Rules, count: int = 4) -> jax.Array:
    """The pyramid's level, int32 [...] from 0, that each box [..., 4] is read from: 224 pixels are level 2."""
    side = jnp.sqrt(areas(boxes, rules.offset))
    if rules.level_inside:
        level = jnp.floor(jnp.log2(side / 56 + 1e-6))
    else:
        level = jnp.floor(4 + jnp.log2(side / 224) + 1e-6) - 2
    return jnp.clip(level, 0, count - 1).astype(jnp.int32)


def roi_align(
    features: Sequence[jax.Array],
    grids: Sequence[jax.Array],
    boxes: jax.Array,
    *,
    strides: Sequence[int],
    output_size: int,
    rules: Rules,
    sampling: int = 2,
    chunk: int = CHUNK,
) -> jax.Array:
    """Crops [N, K, output_size, output_size, C] of boxes float32 [N, K, 4] in pixels of the image.

    Args:
      features: a level each, [N, H, W, C].
      grids: int32 [N, 2] a level: the rows and columns that belong to the image; nothing beyond is read.
      strides: of the levels.
      sampling: samples of a bin along each axis.
    """
    if max(f.shape[1] * f.shape[2] for f in features) <= WHOLE_MAPS:
        return _of_whole_maps(features, grids, boxes, strides, output_size, rules, sampling)
    images, count = boxes.shape[:2]
    channels, dtype = features[0].shape[-1], features[0].dtype
    cells = jnp.concatenate([f.reshape(images, -1, channels) for f in features], axis=1)
    per_image = cells.shape[1]
    cells = cells.reshape(-1, channels)
    starts = np.cumsum([0, *(f.shape[1] * f.shape[2] for f in features[:-1])])
    level = levels(boxes, rules, len(features))

    def of_level(values: Sequence[int] | np.ndarray) -> jax.Array:
        return jnp.asarray(np.asarray(values))[level]

    first_cell = of_level(starts) + jnp.arange(images)[:, None] * per_image
    grid = jnp.take_along_axis(jnp.stack(grids, axis=1), level[..., None], axis=1)
    regions = (
        boxes,
        1 / of_level(strides).astype(jnp.float32),
        first_cell,
        of_level([f.shape[2] for f in features]),
        grid,
    )
    flat = [value.reshape(images * count, *value.shape[2:]) for value in regions]
    chunk = min(chunk, images * count)
    missing = -len(flat[0]) % chunk
    chunks = [jnp.pad(v, ((0, missing), *((0, 0),) * (v.ndim - 1)), mode="edge") for v in flat]
    chunks = [v.reshape(-1, chunk, *v.shape[1:]) for v in chunks]

    def one_chunk(part: Sequence[jax.Array]) -> jax.Array:
        box, scale, first_cell, width, grid = part
        box = jnp.concatenate([box[:, :2], box[:, 2:] + rules.offset], axis=1) * scale[:, None]
        extents = sizes(box)
        rows, row_weights = _axis(box[:, 1], extents[1], grid[:, 0], output_size, sampling, rules.roi_least)
        columns, column_weights = _axis(box[:, 0], extents[0], grid[:, 1], output_size, sampling, rules.roi_least)
        index = first_cell[:, None, None] + rows[:, :, None] * width[:, None, None] + columns[:, None, :]
        gathered = cells[index]
        precision = lax.Precision.HIGHEST if dtype == jnp.float32 else None
        across = jnp.einsum("kqx,kyxc->kyqc", column_weights.astype(dtype), gathered, precision=precision)
        return jnp.einsum("kpy,kyqc->kpqc", row_weights.astype(dtype), across, precision=precision)

    crops = lax.map(one_chunk, chunks)
    crops = crops.reshape(-1, output_size, output_size, channels)[: images * count]
    return crops.reshape(images, count, output_size, output_size, channels)


def _of_whole_maps(
    features: Sequence[jax.Array],
    grids: Sequence[jax.Array],
    boxes: jax.Array,
    strides: Sequence[int],
    output_size: int,
    rules: Rules,
    sampling: int,
) -> jax.Array:
    """`roi_align` by matrices over whole maps: a region's weights are zero on every level but its own."""
    images, count = boxes.shape[:2]
    level = levels(boxes, rules, len(features))
    crops = jnp.zeros((images, count, output_size, output_size, features[0].shape[-1]), features[0].dtype)
    precision = lax.Precision.HIGHEST if crops.dtype == jnp.float32 else None
    for number, (feature, grid, stride) in enumerate(zip(features, grids, strides, strict=True)):
        box = jnp.concatenate([boxes[..., :2], boxes[..., 2:] + rules.offset], axis=-1) * jnp.float32(1 / stride)
        width, height = sizes(box)
        matrices = []
        for axis, extent in enumerate((height, width)):
            size = jnp.broadcast_to(grid[:, axis, None], (images, count)).reshape(-1)
            start = box[..., 1 - axis].reshape(-1)
            cells, weights = _axis(start, extent.reshape(-1), size, output_size, sampling, rules.roi_least)
            places = (cells[..., None] == jnp.arange(feature.shape[1 + axis])).astype(jnp.float32)
            matrix = jnp.einsum("kpm,kmx->kpx", weights, places, precision=lax.Precision.HIGHEST)
            matrices.append(matrix.reshape(images, count, output_size, -1))
        rows, columns = matrices[0] * (level == number)[..., None, None], matrices[1]
        across = jnp.einsum("nkqx,nyxc->nkyqc", columns.astype(crops.dtype), feature, precision=precision)
        crops += jnp.einsum("nkpy,nkyqc->nkpqc", rows.astype(crops.dtype), across, precision=precision)
    return crops


def _axis(
    start: jax.Array, extent: jax.Array, size: jax.Array, output_size: int, sampling: int, least: float
) -> tuple[jax.Array, jax.Array]:
    """Cells int32 [K, M] that one axis' samples read, and the weights [K, output_size, M] that make bins of them."""
    bin_size = jnp.maximum(extent, least) / output_size
    places = (np.arange(output_size * sampling, dtype=np.float32) + 0.5) / sampling
    p = start[:, None] + places * bin_size[:, None]
    last = size[:, None] - 1
    # As the compiled operators have it: a sample more than a cell outside reads 0.
    inside = (p >= -1) & (p <= size[:, None])
    p = jnp.maximum(p, 0.0)
    low = jnp.minimum(jnp.floor(p).astype(jnp.int32), last)
    high = jnp.minimum(low + 1, last)
    fraction = jnp.where(low >= last, 0.0, p - low)
    cells = jnp.stack([low, high], axis=-1)
    weights = jnp.stack([1 - fraction, fraction], axis=-1) * inside[..., None] / sampling
    count = len(start)
    weights = weights.reshape(count, output_size, 2 * sampling)
    matrix = jnp.asarray(np.eye(output_size, dtype=np.float32))[None, :, :, None] * weights[:, None, :, :]
    return cells.reshape(count, -1), matrix.reshape(count, output_size, -1)
