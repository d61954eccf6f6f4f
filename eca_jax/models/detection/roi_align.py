"""ROIAlign over a feature pyramid (He et al., "Mask R-CNN", ICCV 2017), in chunks of regions.

A region's samples lie on a grid, so bilinear interpolation, the mean of a bin's samples and the rule at the border are
one matrix for rows and one for columns: a chunk gathers the cells of its grids and multiplies twice. For two images of
1000 regions a TPU would write and read back 14.5 GB with all regions at once, and 2.1 GB in chunks of 125.

On maps of a few hundred cells nothing is gathered: the two matrices reach over the whole map.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eca_jax.models.detection.boxes import areas, sizes
from eca_jax.models.detection.rules import Rules

CHUNK = 125
# Of an image: with eight images a chip these are as many regions as `CHUNK`, on however many chips.
SMALLEST_CHUNK = 16
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
    chunk: int = 0,
) -> jax.Array:
    """Crops [N, K, output_size, output_size, C] of boxes float32 [N, K, 4] in pixels of the image.

    Args:
      features: a level each, [N, H, W, C].
      grids: int32 [N, 2] a level: the rows and columns that belong to the image; nothing beyond is read.
      strides: of the levels.
      sampling: samples of a bin along each axis.
      chunk: regions of an image that are read at once; 0 is about `CHUNK` of all images.
    """
    if max(f.shape[1] * f.shape[2] for f in features) <= WHOLE_MAPS:
        return _of_whole_maps(features, grids, boxes, strides, output_size, rules, sampling)
    images, count = boxes.shape[:2]
    channels = features[0].shape[-1]
    cells = jnp.concatenate([f.reshape(images, -1, channels) for f in features], axis=1)
    starts = np.cumsum([0, *(f.shape[1] * f.shape[2] for f in features[:-1])])
    level = levels(boxes, rules, len(features))

    def of_level(values: Sequence[int] | np.ndarray) -> jax.Array:
        return jnp.asarray(np.asarray(values))[level]

    grid = jnp.take_along_axis(jnp.stack(grids, axis=1), level[..., None], axis=1)
    scale = 1 / of_level(strides).astype(jnp.float32)
    regions = (boxes, scale, of_level(starts), of_level([f.shape[2] for f in features]), grid)
    chunk = min(count, chunk or max(CHUNK // images, SMALLEST_CHUNK))
    missing = -count % chunk

    def chunked(values: jax.Array) -> jax.Array:
        """[N, K, ...] -> [chunks, N, chunk, ...]."""
        padded = jnp.pad(values, ((0, 0), (0, missing), *((0, 0),) * (values.ndim - 2)), mode="edge")
        return jnp.moveaxis(padded.reshape(images, -1, chunk, *values.shape[2:]), 1, 0)

    of_image = functools.partial(_samples, output_size=output_size, sampling=sampling, rules=rules)
    index, rows, columns = (chunked(values) for values in jax.vmap(of_image)(*regions))
    crops = _read(cells, (index, rows, columns))
    crops = jnp.moveaxis(crops, 0, 1).reshape(images, -1, output_size, output_size, channels)
    return crops[:, :count]


# Of K regions: cells int32 [K, M, M] that are read, and weights [K, output_size, M] of their rows and columns.
Samples = tuple[jax.Array, jax.Array, jax.Array]


def _samples(
    box: jax.Array,
    scale: jax.Array,
    first_cell: jax.Array,
    width: jax.Array,
    grid: jax.Array,
    *,
    output_size: int,
    sampling: int,
    rules: Rules,
) -> Samples:
    """Of boxes [K, 4] in one image; of their levels 1 / stride, first cell and width [K], and valid grid [K, 2]."""
    box = jnp.concatenate([box[:, :2], box[:, 2:] + rules.offset], axis=1) * scale[:, None]
    extents = sizes(box)
    rows, row_weights = _axis(box[:, 1], extents[1], grid[:, 0], output_size, sampling, rules.roi_least)
    columns, column_weights = _axis(box[:, 0], extents[0], grid[:, 1], output_size, sampling, rules.roi_least)
    index = first_cell[:, None, None] + rows[:, :, None] * width[:, None, None] + columns[:, None, :]
    return index, row_weights, column_weights


@jax.custom_vjp
def _read(cells: jax.Array, samples: Samples) -> jax.Array:
    """Crops [chunks, N, chunk, S, S, C] of cells [N, P, C]; `samples` are `Samples` of every chunk and image.

    A custom derivative adds each chunk's gradient into one array in place; that of the loop would make, and add, an
    array of all cells a chunk. Regions have none.
    """
    dtype = cells.dtype

    def one_chunk(part: Samples) -> jax.Array:
        index, rows, columns = part
        gathered = jax.vmap(lambda cells, index: cells[index])(cells, index)
        across = _einsum("nkqx,nkyxc->nkyqc", columns.astype(dtype), gathered)
        return _einsum("nkpy,nkyqc->nkpqc", rows.astype(dtype), across)

    return lax.map(one_chunk, samples)


def _einsum(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, precision=lax.Precision.HIGHEST if b.dtype == jnp.float32 else None)


def _read_forward(cells: jax.Array, samples: Samples) -> tuple[jax.Array, tuple]:
    return _read(cells, samples), (samples, jnp.zeros((0, *cells.shape[:2]), cells.dtype))


def _read_backward(saved: tuple, gradient: jax.Array) -> tuple[jax.Array, None]:
    samples, like = saved

    def one_chunk(total: jax.Array, part: tuple[Samples, jax.Array]) -> tuple[jax.Array, None]:
        (index, rows, columns), own = part
        down = _einsum("nkpy,nkpqc->nkyqc", rows.astype(own.dtype), own)
        each = _einsum("nkqx,nkyqc->nkyxc", columns.astype(own.dtype), down).astype(total.dtype)
        return jax.vmap(lambda total, index, each: total.at[index].add(each))(total, index, each), None

    total = jnp.zeros((*like.shape[1:], gradient.shape[-1]), jnp.float32)
    return lax.scan(one_chunk, total, (samples, gradient))[0].astype(like.dtype), None


_read.defvjp(_read_forward, _read_backward)


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
