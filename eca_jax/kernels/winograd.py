"""Winograd's F(2x2, 3x3) (Lavin and Gray, CVPR 2016): 16 multiplications for 4 outputs of a 3x3 convolution, not 36.

Its matrices hold only 0, ±1 and ±1/2, so that its rounding errors are those of the direct form.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from eca_jax.kernels.products import matmul, outer
from eca_jax.kernels.shifts import shifts, split
from eca_jax.kernels.xla_conv import Padding, Shape, Window

_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
_CHUNK_BYTES = 4 << 20

Grid = list[list[jax.Array]]


def pays(x: Shape, features: int, padding: Padding) -> bool:
    """Whether this is the faster form of a 3x3 convolution of stride 1 of an array of shape x.

    Few pixels do not repay transforming the kernel, few channels the tiles, little work the longer compilation: see
    BENCHMARKS.md, "Convolutions on a CPU". The batch must be known, for it is taken in parts.
    """
    if not all(isinstance(size, int) for size in x):
        return False
    pixels, channels = x[0] * x[1] * x[2], x[3]
    enough = pixels >= 512 and min(channels, features) >= 64 and 18 * pixels * channels * features >= 2e8
    return enough and max(*padding[0], *padding[1]) <= 2


def forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """3x3 convolution of stride 1: x [N,H,W,C], kernel [3,3,C,F] -> [N,H',W',F]."""
    return _in_cache(x, _transform(_KERNEL, [list(row) for row in kernel]), window.padding)


def input_gradient(g: jax.Array, kernel: jax.Array, window: Window, shape: Shape) -> jax.Array:
    """The transpose of `forward` in x, of `shape`."""
    # The transposed convolution is the convolution with the kernel turned round and the padding 2 - p. Transposed after
    # its transform, where the products take it as it is: before, that took as long as all else at 512 channels and 7x7.
    turned = _transform(_KERNEL, [list(row) for row in kernel[::-1, ::-1]])
    kernels = [[k.T for k in row] for row in turned]
    (top, bottom), (left, right) = window.padding
    return _in_cache(g, kernels, ((2 - top, 2 - bottom), (2 - left, 2 - right)))


def kernel_gradient(x: jax.Array, g: jax.Array, window: Window, shape: Shape) -> jax.Array:
    """The transpose of `forward` in the kernel, of `shape` [3,3,C,F], with as few multiplications."""
    _, height, width, features = g.shape
    parts = _parts(x)

    def accumulate(sums: Grid, part: tuple[jax.Array, jax.Array]) -> tuple[Grid, None]:
        x, g = part
        pixels = shifts(g, (2, 2), (2, 2), ((0, height % 2), (0, width % 2)))
        outputs = _transform(_transposed(_OUTPUT), [pixels[:2], pixels[2:]])
        return jax.tree.map(
            lambda s, t, y: s + outer(t, y), sums, _tiles(x, height, width, window.padding), outputs
        ), None

    zeros = [[jnp.zeros_like(x, shape=(x.shape[-1], features))] * 4] * 4
    sums, _ = lax.scan(accumulate, zeros, (split(x, parts), split(g, parts)))
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(_KERNEL), sums)])


def _in_cache(x: jax.Array, kernels: Grid, padding: Padding) -> jax.Array:
    """`_winograd`, by parts of the batch whose tiles, four times the size of the input, stay in the cache."""
    parts = _parts(x)
    if parts == 1:
        return _winograd(x, kernels, padding)
    y = lax.map(lambda part: _winograd(part, kernels, padding), split(x, parts))
    return y.reshape(len(x), *y.shape[2:])


def _parts(x: jax.Array) -> int:
    """How many parts of equal size the batch splits into."""
    return next(k for k in range(1, len(x) + 1) if len(x) % k == 0 and (x.nbytes <= k * _CHUNK_BYTES or k == len(x)))


def _winograd(x: jax.Array, kernels: Grid, padding: Padding) -> jax.Array:
    """The convolution of x [N,H,W,C] with a kernel that is transformed already, [4][4] arrays [C,F]."""
    height, width = (n + sum(p) - 2 for n, p in zip(x.shape[1:3], padding, strict=True))
    tiles = _tiles(x, height, width, padding)
    products = [[matmul(t, k) for t, k in zip(*rows, strict=True)] for rows in zip(tiles, kernels, strict=True)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in _transform(_OUTPUT, products)], axis=2)
    n, tile_rows, _, tile_columns, _, features = y.shape
    return y.reshape(n, 2 * tile_rows, 2 * tile_columns, features)[:, :height, :width]


def _tiles(x: jax.Array, height: int, width: int, padding: Padding) -> Grid:
    """The transformed 4x4 patches of x, at stride 2, for height x width outputs: [4][4] arrays [N,⌈H'/2⌉,⌈W'/2⌉,C]."""
    (top, bottom), (left, right) = padding
    pixels = shifts(x, (4, 4), (2, 2), ((top, bottom + height % 2), (left, right + width % 2)))
    return _transform(_INPUT, [pixels[i : i + 4] for i in range(0, 16, 4)])


def _transform(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """matrix @ grid @ matrix.T for a grid of arrays, without the multiplications by 0 and 1."""

    def combine(coefficients: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
        terms = [a if c == 1 else -a if c == -1 else c * a for c, a in zip(coefficients, arrays, strict=True) if c]
        return sum(terms[1:], terms[0])

    rows = [[combine(coefficients, column) for column in zip(*grid, strict=True)] for coefficients in matrix]
    return [[combine(coefficients, row) for coefficients in matrix] for row in rows]


def _transposed(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    return tuple(zip(*matrix, strict=True))
