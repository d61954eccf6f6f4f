"""PIL's resize and torchvision's evaluation crop, as TensorFlow graphs."""

from collections.abc import Sequence
from typing import Any

from eca_jax.data.decode import decode
from eca_jax.data.runtime import Tensor, tensorflow

# Output rows that share one gathered window of input rows in `_resample_rows`. At 8 the windows overlap by half at
# common scales and the small matrix products still fill the vector units.
_BLOCK = 8


def evaluation_image(encoded: Tensor, *, image_size: int, resize_size: int, interpolation: str) -> Tensor:
    """torchvision's `Resize(resize_size)` and `CenterCrop(image_size)` on PIL, bit for bit.

    Only the pixels inside the crop are computed. Returns uint8 [image_size, image_size, 3].
    """
    tf = tensorflow()
    image = decode(encoded)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    short = tf.minimum(height, width)
    sides = tf.cast(tf.stack([height, width]), tf.float64)
    # Python's int(resize_size * long / short): the product is exact, the quotient is a double, then truncated.
    target = tf.cast(resize_size * sides / tf.cast(short, tf.float64), tf.int32)
    inside = tf.minimum(target, image_size)
    halves = tf.cast(target - image_size, tf.float64) / 2
    start = tf.maximum(tf.cast(tf.round(halves), tf.int32), 0)  # halves to even, as Python's round
    image = exact_resize(image, tf.unstack(target), interpolation, tf.unstack(start), tf.unstack(inside))
    before = (image_size - inside) // 2
    padding = tf.concat([tf.stack([before, image_size - inside - before], axis=1), [[0, 0]]], axis=0)
    return tf.ensure_shape(tf.pad(image, padding), [image_size, image_size, 3])


def exact_resize(
    image: Tensor,
    size: Sequence[Any],
    interpolation: str,
    start: Sequence[Any] = (0, 0),
    count: Sequence[Any] | None = None,
) -> Tensor:
    """PIL's antialiased resize, bit for bit: the width first, rounded to 8 bits, then the height, rounded again.

    The filter's weights are PIL's 22-bit fixed-point ones, and their sums with the pixels are exact in float64.

    Args:
      image: uint8 [H, W, C].
      size: (height, width) to resize to.
      interpolation: "bilinear" or "bicubic".
      start, count: the window of the resized image to compute, (row, column) and (rows, columns); all by default.

    Returns:
      uint8 [*count, C].
    """
    tf = tensorflow()
    count = size if count is None else count
    image = _resample_rows(tf.transpose(image, [1, 0, 2]), size[1], start[1], count[1], interpolation)
    return _resample_rows(tf.transpose(image, [1, 0, 2]), size[0], start[0], count[0], interpolation)


def fast_resize(image: Tensor, side: int, interpolation: str) -> Tensor:
    """As `exact_resize` to [side, side, C], in about half of the time; some values are one grey level off, rarely two.

    TensorFlow's kernel has float32 positions and weights: under 1% of the values differ as a rule, a fifth of them
    where the scale makes many sums end in exactly one half (PIL's fixed-point weights break such ties at random). It is
    quick along rows and slow along columns, whose inner loop runs over three channels; so both passes go along rows, of
    an image of one column that has the values of a row as channels.
    """
    tf = tensorflow()
    kernel = {"bilinear": "triangle", "bicubic": "keyscubic"}[interpolation]
    for _ in range(2):
        image = tf.transpose(image, [1, 0, 2])
        rows = tf.shape(image)[0]
        resized = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(image, [1, rows, 1, -1]),
            size=[side, 1],
            scale=tf.stack([side / tf.cast(rows, tf.float32), 1.0]),
            translation=[0.0, 0.0],
            kernel_type=kernel,
        )
        resized = _round_to_uint8(resized, interpolation)
        image = tf.reshape(resized, [side, tf.shape(image)[1], image.shape[2]])
    return image


def _round_to_uint8(values, interpolation):
    tf = tensorflow()
    if interpolation == "bicubic":  # it overshoots; the triangle cannot
        values = tf.clip_by_value(values, 0.0, 254.5)
    return tf.cast(values + 0.5, tf.uint8)


def _resample_rows(image, size, start, count, interpolation):
    """Resizes the first axis of [H, W, C] to `size` and returns `count` rows of that from `start`.

    Every `_BLOCK` output rows are one small matrix product with the run of input rows that they need.
    """
    tf = tensorflow()
    kernel, radius = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}[interpolation]
    rows = tf.shape(image)[0]
    scale = tf.cast(rows, tf.float64) / tf.cast(size, tf.float64)
    stretch = tf.maximum(scale, 1.0)  # antialiasing: when shrinking, the filter widens with the scale

    blocks = -(-count // _BLOCK)
    center = (tf.cast(start + tf.range(blocks * _BLOCK), tf.float64) + 0.5) * scale
    center = tf.reshape(center, [blocks, _BLOCK])
    first = tf.maximum(tf.cast(center[:, 0] - radius * stretch, tf.int32), 0)
    span = tf.cast(tf.math.ceil(_BLOCK * scale + 2 * radius * stretch), tf.int32) + 1
    source = first[:, None] + tf.range(span)

    distance = tf.cast(source, tf.float64)[:, None, :] + 0.5 - center[:, :, None]
    weights = kernel(distance / stretch) * tf.cast(source < rows, tf.float64)[:, None, :]
    weights /= tf.reduce_sum(weights, axis=2, keepdims=True)
    weights = tf.round(weights * 2.0**22) / 2.0**22

    pixels = tf.gather(tf.reshape(image, [rows, -1]), tf.minimum(source, rows - 1))
    sums = tf.matmul(weights, tf.cast(pixels, tf.float64))
    resized = _round_to_uint8(sums, interpolation)
    return tf.reshape(resized, [blocks * _BLOCK, tf.shape(image)[1], image.shape[2]])[:count]


def _triangle(x):
    tf = tensorflow()
    return tf.maximum(1.0 - tf.abs(x), 0.0)


def _cubic(x):
    """Keys' cubic with a = -1/2."""
    tf = tensorflow()
    x = tf.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))
