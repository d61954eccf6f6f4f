"""Convolutions, max-pooling and residual sums in the forms that XLA's CPU backend runs fast, for float32.

The backend hands matrix products to a good library. Its own depthwise convolutions and several gradients are far slower
than the machine allows, and it knows no Winograd convolution. Each form here equals the plain one to float32 rounding;
only reverse-mode derivatives are defined. GFLOP/s, 2 cores with AVX-512 that reach 480 in a product, batch 32, huge
pages, this form against `lax.conv_general_dilated` by Eigen (see `lowering.compiler_options`):

                                       forward     input gradient   kernel gradient
    1x1, 256 to 64 channels at 56x56   299 354        283 307           245  88
    1x1, 1024 to 256 channels at 14x14 405 424        369 397           320 231
    1x1, 512 to 2048 channels at 7x7   464 418        451 425           418 380
    3x3, 64 channels at 56x56          483 330        486 332           204 266
    3x3, 128 channels at 28x28         562 377        563 368           383 274
    3x3, 256 channels at 14x14         747 445        699 425           494 397
    3x3, 512 channels at 7x7           543 469        535 394           489 431
    3x3, stride 2, 128 channels at 56x56                319 200
    3x3, stride 2, 256 channels at 28x28                393 293
    depthwise 3x3, 576 channels at 14x14, in a busier hour: forward 11 against 0.6, kernel gradient 8 against 0.5

`python -m eca_jax.bench.conv` measures them again, with PyTorch beside them.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """The fastest form for these shapes: x [N,H,W,C], kernel [kh,kw,C/groups,F] -> [N,H',W',F]."""
    *taps, channels, features = kernel.shape
    unpadded = padding == ((0, 0), (0, 0))
    if taps == [1, 1] and groups == 1 and unpadded:
        return _matmul(x[:, :: stride[0], :: stride[1]], kernel[0, 0])
    if channels == 1 and groups == features and dilation == (1, 1):
        return depthwise(x, kernel[:, :, 0], stride, padding)
    if taps == [3, 3] and stride == dilation == (1, 1) and groups == 1 and _winograd_pays(x, features, padding):
        return winograd(x, kernel, padding)
    if max(stride) > 1 and min(taps) >= max(stride) and groups == 1 and dilation == (1, 1):
        return strided(x, kernel, stride, padding)
    return direct(x, kernel, stride, padding, dilation, groups)


def direct(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@jax.custom_vjp
def _matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., K] times w [K, F]: a 1x1 convolution."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def _matmul_fwd(x, w):
    return _matmul(x, w), (x, w)


def _matmul_bwd(residuals, g):
    x, w = residuals
    # For JAX's own transpose in w XLA writes all of g out again, transposed: up to four times the time of this form.
    return _matmul(g, w.T), _outer(x, g)


def _outer(x: jax.Array, g: jax.Array) -> jax.Array:
    """[K, F], the sum of x [..., K] times g [..., F] over all positions: the kernel gradient of a 1x1 convolution."""
    x, g = (v.reshape(-1, v.shape[-1]) for v in (x, g))
    if x.shape[1] > g.shape[1]:
        # The product is half as fast again with its shorter side first; the barrier keeps XLA from turning it back.
        return lax.optimization_barrier(_outer(g, x)).T
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))


_matmul.defvjp(_matmul_fwd, _matmul_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x: jax.Array, w: jax.Array, stride: tuple[int, int], padding: Padding) -> jax.Array:
    """Depthwise convolution as shifted multiply-adds: x [N,H,W,C], w [kh,kw,C] -> [N,H',W',C]."""
    shifted = _shifts(x, w.shape[:2], stride, padding)
    return sum(v * tap for v, tap in zip(shifted, w.reshape(-1, w.shape[-1]), strict=True))


def _shifts(
    x: jax.Array, taps: tuple[int, int], stride: tuple[int, int], padding: Padding, fill: float = 0.0
) -> list[jax.Array]:
    """For every kernel tap, row by row, the pixels of x that it meets: arrays [N,H',W',C]."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    height, width = (n - k + 1 for n, k in zip(x.shape[1:3], taps, strict=True))
    return [x[:, i : i + height : stride[0], j : j + width : stride[1]] for i in range(taps[0]) for j in range(taps[1])]


def _depthwise_fwd(x, w, stride, padding):
    # In training BatchNorm reads the result three times.
    return compute_once(depthwise(x, w, stride, padding)), (x, w)


def _depthwise_bwd(stride, padding, residuals, g):
    x, w = residuals
    # The transpose is a convolution of g, spread out by the stride, with the kernel turned round.
    sizes = zip(w.shape[:2], padding, x.shape[1:3], g.shape[1:3], stride, strict=True)
    pads = [(k - 1 - low, n + low - (m - 1) * s - 1, s - 1) for k, (low, _), n, m, s in sizes]
    spread = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    dx = depthwise.fun(spread, w[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))

    # A reduction over (N,H,W) runs in scalar code on one core; sums of arrays run in vectors on all. So add up a few
    # examples at a time into [H',W',C] accumulators, one a tap, and reduce those.
    count = math.gcd(len(x), 4)

    def accumulate(sums, examples):
        x, g = examples
        shifted = _shifts(x, w.shape[:2], stride, padding)
        return [s + sum(v[n] * g[n] for n in range(count)) for s, v in zip(sums, shifted, strict=True)], None

    zeros = [jnp.zeros(g.shape[1:], g.dtype)] * (w.shape[0] * w.shape[1])
    sums, _ = lax.scan(accumulate, zeros, (_split(x, len(x) // count), _split(g, len(g) // count)))
    return dx, jnp.stack([jnp.sum(s, axis=(0, 1)) for s in sums]).reshape(w.shape)


depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def strided(x: jax.Array, kernel: jax.Array, stride: tuple[int, int], padding: Padding) -> jax.Array:
    """XLA's own convolution; its input gradient by phases."""
    return direct(x, kernel, stride, padding)


def _strided_fwd(x, kernel, stride, padding):
    return strided(x, kernel, stride, padding), (x, kernel)


def _strided_bwd(stride, padding, residuals, g):
    """XLA spreads g out with zeros and multiplies by them; the pixels of x that meet the same taps need no zeros."""
    x, kernel = residuals
    turned = jnp.swapaxes(kernel, 2, 3)
    rows, columns = (
        [_phase(r, *sizes) for r in range(sizes[-1])]
        for sizes in zip(x.shape[1:3], g.shape[1:3], kernel.shape[:2], padding, stride, strict=True)
    )
    phases = [[direct(g, turned[i][:, j], (1, 1), (top, left)) for j, left in columns] for i, top in rows]
    dx = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    dx = dx.reshape(len(x), dx.shape[1] * stride[0], dx.shape[3] * stride[1], -1)[:, : x.shape[1], : x.shape[2]]
    return dx, *jax.linear_transpose(lambda kernel: direct(x, kernel, stride, padding), kernel)(g)


def _phase(
    first: int, length: int, outputs: int, taps: int, padding: tuple[int, int], stride: int
) -> tuple[slice, tuple[int, int]]:
    """In one dimension, the taps that pixels first, first + stride, ... meet, and the padding of their convolution.

    Output o meets pixel p through tap p + padding - stride * o; the taps are in the order of the outputs.
    """
    last = taps - 1 - (taps - 1 - first - padding[0]) % stride
    count = last // stride + 1
    low = (last - first - padding[0]) // stride
    return slice(last, None, -stride), (low, math.ceil(length / stride) - outputs - low + count - 1)


strided.defvjp(_strided_fwd, _strided_bwd)


# Winograd's F(2x2, 3x3) (Lavin and Gray, CVPR 2016): 16 multiplications for 4 outputs of a 3x3 convolution instead of
# 36. Its matrices hold only 0, ±1 and ±1/2, so that its rounding errors are those of the direct form.
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
_CHUNK_BYTES = 4 << 20

Grid = list[list[jax.Array]]


def _winograd_pays(x: jax.Array, features: int, padding: Padding) -> bool:
    """Few pixels do not repay transforming the kernel, few channels the tiles, little work the longer compilation.

    One image through ECA-ResNet-50, images/s by the fewest pixels: 26.4 (128), 29.7 (512), 30.3 (1024), 30.5 (none).
    """
    pixels, channels = x.size // x.shape[-1], x.shape[-1]
    enough = pixels >= 512 and min(channels, features) >= 64 and 18 * pixels * channels * features >= 2e8
    return enough and max(*padding[0], *padding[1]) <= 2


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def winograd(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """3x3 convolution of stride 1: x [N,H,W,C], kernel [3,3,C,F] -> [N,H',W',F]."""
    return _in_cache(x, _transform(_KERNEL, [list(row) for row in kernel]), padding)


def _in_cache(x: jax.Array, kernels: Grid, padding: Padding) -> jax.Array:
    """`_winograd`, by parts of the batch whose tiles, four times the size of the input, stay in the cache."""
    parts = _parts(x)
    if parts == 1:
        return _winograd(x, kernels, padding)
    y = lax.map(lambda part: _winograd(part, kernels, padding), _split(x, parts))
    return y.reshape(len(x), *y.shape[2:])


def _parts(x: jax.Array) -> int:
    """How many parts of equal size the batch splits into."""
    return next(k for k in range(1, len(x) + 1) if len(x) % k == 0 and (x.nbytes <= k * _CHUNK_BYTES or k == len(x)))


def _winograd(x: jax.Array, kernels: Grid, padding: Padding) -> jax.Array:
    """The convolution of x [N,H,W,C] with a kernel that is transformed already, [4][4] arrays [C,F]."""
    height, width = (n + sum(p) - 2 for n, p in zip(x.shape[1:3], padding, strict=True))
    tiles = _tiles(x, height, width, padding)
    products = [[_matmul(t, k) for t, k in zip(*rows, strict=True)] for rows in zip(tiles, kernels, strict=True)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in _transform(_OUTPUT, products)], axis=2)
    n, tile_rows, _, tile_columns, _, features = y.shape
    return y.reshape(n, 2 * tile_rows, 2 * tile_columns, features)[:, :height, :width]


def _tiles(x: jax.Array, height: int, width: int, padding: Padding) -> Grid:
    """The transformed 4x4 patches of x, at stride 2, for height x width outputs: [4][4] arrays [N,⌈H'/2⌉,⌈W'/2⌉,C]."""
    (top, bottom), (left, right) = padding
    pixels = _shifts(x, (4, 4), (2, 2), ((top, bottom + height % 2), (left, right + width % 2)))
    return _transform(_INPUT, [pixels[i : i + 4] for i in range(0, 16, 4)])


def _transform(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """matrix @ grid @ matrix.T for a grid of arrays, without the multiplications by 0 and 1."""

    def combine(coefficients, arrays):
        terms = [a if c == 1 else -a if c == -1 else c * a for c, a in zip(coefficients, arrays, strict=True) if c]
        return sum(terms[1:], terms[0])

    rows = [[combine(coefficients, column) for column in zip(*grid, strict=True)] for coefficients in matrix]
    return [[combine(coefficients, row) for coefficients in matrix] for row in rows]


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[N, ...] -> [parts, N / parts, ...]"""
    return x.reshape(parts, len(x) // parts, *x.shape[1:])


def _winograd_fwd(x, kernel, padding):
    return winograd(x, kernel, padding), (x, kernel)


def _winograd_bwd(padding, residuals, g):
    x, kernel = residuals
    # The transposed convolution is the convolution with the kernel turned round and the padding 2 - p. Transposed after
    # its transform, where the products take it as it is: before, that took as long as all else at 512 channels and 7x7.
    turned = _transform(_KERNEL, [list(row) for row in kernel[::-1, ::-1]])
    kernels = [[k.T for k in row] for row in turned]
    dx = _in_cache(g, kernels, tuple((2 - low, 2 - high) for low, high in padding))
    return dx, _winograd_dkernel(x, g, padding)


def _winograd_dkernel(x: jax.Array, g: jax.Array, padding: Padding) -> jax.Array:
    """[3,3,C,F]: the transpose of `winograd` in the kernel, with as few multiplications."""
    _, height, width, features = g.shape
    parts = _parts(x)

    def accumulate(sums, part):
        x, g = part
        pixels = _shifts(g, (2, 2), (2, 2), ((0, height % 2), (0, width % 2)))
        outputs = _transform(_transposed(_OUTPUT), [pixels[:2], pixels[2:]])
        return jax.tree.map(lambda s, t, y: s + _outer(t, y), sums, _tiles(x, height, width, padding), outputs), None

    zeros = [[jnp.zeros((x.shape[-1], features), x.dtype)] * 4] * 4
    sums, _ = lax.scan(accumulate, zeros, (_split(x, parts), _split(g, parts)))
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(_KERNEL), sums)])


def _transposed(matrix: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    return tuple(zip(*matrix, strict=True))


winograd.defvjp(_winograd_fwd, _winograd_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: tuple[int, int], stride: tuple[int, int], padding: Padding) -> jax.Array:
    """Largest value of each window of x [N,H,W,C], the padding being -inf."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), ((0, 0), *padding, (0, 0)))


def _max_pool_fwd(x, window, stride, padding):
    y = max_pool(x, window, stride, padding)
    return y, (x, y)


def _max_pool_bwd(window, stride, padding, residuals, g):
    """The gradient goes to the first largest value of each window, as in PyTorch and XLA.

    XLA expands its own form, select_and_scatter, into passes over arrays of indices.
    """
    x, y = residuals
    open_windows = jnp.ones(y.shape, bool)
    gradients = []
    for v in _shifts(x, window, stride, padding, fill=-jnp.inf):
        largest = open_windows & (v == y)
        open_windows &= ~largest
        gradients.append(jnp.where(largest, g, 0))
    return jax.linear_transpose(lambda x: _shifts(x, window, stride, padding), x)(gradients)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


_IMAGES = 4


def in_parts(network: Callable[[jax.Array], Any], images: jax.Array) -> Any:
    """network(images), four images at a time: the feature maps of a whole batch would not stay in the cache.

    Images/s at batch 32 by images at a time, medians, 2 cores: ECA-MobileNetV2 169 (1), 190 (2), 206 (4), 205 (8),
    154 (32); ECA-ResNet-50 39.0 (1), 47.1 (2), 46.4 (4), 44.3 (8), 34.6 (32).
    """
    count = math.gcd(len(images), _IMAGES)
    if count == len(images):
        return network(images)
    results = lax.map(network, _split(images, len(images) // count))
    return jax.tree.map(lambda y: y.reshape(len(images), *y.shape[2:]), results)


def compute_once(x: jax.Array) -> jax.Array:
    """x, written to memory, where XLA's fusion would repeat what computes it in everything that reads it.

    A call that is not inlined ends fusion. An optimization barrier does not, here; it only gives the call a body.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(lax.optimization_barrier)(x)


@jax.custom_vjp
def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """relu(x + y), ending in a sum of two arrays.

    XLA's fusion repeats an operation with one large operand in everything that uses its result, but not one with two.
    With the plain form each block of a residual network would compute all blocks before it in the same stage again.
    """
    return jnp.maximum(x, -y) + y


def _add_relu_fwd(x, y):
    z = add_relu(x, y)
    return z, z


def _add_relu_bwd(z, g):
    g = jnp.where(z > 0, g, 0)
    return g, g


add_relu.defvjp(_add_relu_fwd, _add_relu_bwd)
