"""Image functions of the input pipelines, as TensorFlow graphs: decoding, PIL's resize, torchvision's crops.

Call them inside a tf.data function. Errors in the data (a truncated file) are errors of the element.
"""

import math

from eca_jax.data.runtime import tensorflow

# Uniform numbers that one training image uses: ten attempts at an area, ten at an aspect ratio, the crop's two
# offsets, the flip.
ATTEMPTS = 10
DRAWS = 2 * ATTEMPTS + 3

# Output rows that share one gathered window of input rows in `_resample_rows`. At 8 the windows overlap by half at
# common scales and the small matrix products still fill the vector units.
_BLOCK = 8


def decode(encoded):
    """Decodes JPEG or PNG bytes to uint8 [H, W, 3], bit-equal to PIL for RGB and greyscale files."""
    tf = tensorflow()
    # Despite its name the kernel recognises PNG too; the accurate DCT is PIL's (the default is up to 6 levels off).
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def decode_window(encoded, shape, window):
    """Decodes only the part of a JPEG that covers `window` (top, left, height, width): `decode(encoded)` cropped to it.

    Two pixels more are decoded on each side, where there are any: colour is usually stored at half resolution and the
    decoder interpolates it from both neighbours, of which the outer one would be missing at the window's edge.
    """
    tf = tensorflow()
    start = tf.maximum(window[:2] - 2, 0)
    stop = tf.minimum(window[:2] + window[2:] + 2, shape[:2])
    padded = tf.concat([start, stop - start], axis=0)
    image = tf.image.decode_and_crop_jpeg(encoded, padded, channels=3, dct_method="INTEGER_ACCURATE")
    top, left = tf.unstack(window[:2] - start)
    return image[top : top + window[2], left : left + window[3]]


def training_image(encoded, draws, *, image_size, crop_scale, crop_ratio, flip, interpolation):
    """torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`, from given randomness.

    Args:
      encoded: string scalar, JPEG or PNG bytes.
      draws: float32 [DRAWS], uniform in [0, 1).
      image_size: side of the result.
      crop_scale, crop_ratio: (low, high) of the crop's area as a fraction of the image, and of its aspect ratio.
      flip: mirror with probability 1/2.
      interpolation: "bilinear" or "bicubic".

    Returns:
      uint8 [image_size, image_size, 3].
    """
    tf = tensorflow()

    def crop_while_decoding():
        shape = tf.image.extract_jpeg_shape(encoded)
        return decode_window(encoded, shape, random_crop_window(draws, shape[0], shape[1], crop_scale, crop_ratio))

    def decode_then_crop():
        image = decode(encoded)
        top, left, height, width = tf.unstack(
            random_crop_window(draws, tf.shape(image)[0], tf.shape(image)[1], crop_scale, crop_ratio)
        )
        return image[top : top + height, left : left + width]

    # The fused decoder stops at the crop's last line and would not see that the file ends early, so whether a
    # truncated file counts as corrupt would depend on the crop. One that lacks the end marker is decoded whole.
    complete_jpeg = tf.io.is_jpeg(encoded) & (tf.strings.substr(encoded, -2, 2) == b"\xff\xd9")
    image = tf.cond(complete_jpeg, crop_while_decoding, decode_then_crop)
    image = fast_resize(image, image_size, interpolation)
    if flip:
        image = tf.cond(draws[-1] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.ensure_shape(image, [image_size, image_size, 3])


def evaluation_image(encoded, *, image_size, resize_size, interpolation):
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


def random_crop_window(draws, height, width, scale, ratio):
    """torchvision's `RandomResizedCrop.get_params`, a pure function of its random draws.

    Up to ten attempts at a window whose area is uniform in `scale` (of the image's area) and whose aspect ratio is
    log-uniform in `ratio`; the first that fits stands at a uniform position. If none fits: the central window of the
    nearest allowed aspect ratio.

    Args:
      draws: float32 [DRAWS], uniform in [0, 1).
      height, width: int32 scalars.
      scale, ratio: (low, high).

    Returns:
      int32 [4]: top, left, height, width.
    """
    tf = tensorflow()
    image_height, image_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = image_height * image_width * (scale[0] + (scale[1] - scale[0]) * draws[:ATTEMPTS])
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(log_low + (log_high - log_low) * draws[ATTEMPTS : 2 * ATTEMPTS])
    widths, heights = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= image_width) & (heights > 0) & (heights <= image_height)
    first = tf.argmax(fits, output_type=tf.int32)
    found = fits[first]

    widest = tf.minimum(tf.round(image_height * ratio[1]), image_width)
    tallest = tf.minimum(tf.round(image_width / ratio[0]), image_height)
    crop_width = tf.where(found, widths[first], widest)
    crop_height = tf.where(found, heights[first], tallest)
    free = tf.stack([image_height - crop_height, image_width - crop_width])
    offset = tf.where(found, tf.minimum(tf.floor(draws[-3:-1] * (free + 1)), free), tf.floor(free / 2))
    return tf.cast(tf.concat([offset, [crop_height, crop_width]], axis=0), tf.int32)


def exact_resize(image, size, interpolation, start=(0, 0), count=None):
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


def fast_resize(image, side, interpolation):
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
