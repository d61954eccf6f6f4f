"""torchvision's random crop and flip, from given randomness, as TensorFlow graphs."""

import math

from eca_jax.data.decode import decode, decode_window
from eca_jax.data.resize import fast_resize
from eca_jax.data.runtime import Tensor, tensorflow

# Uniform numbers that one training image uses: ten attempts at an area, ten at an aspect ratio, the crop's two
# offsets, the flip.
ATTEMPTS = 10
DRAWS = 2 * ATTEMPTS + 3


def training_image(
    encoded: Tensor,
    draws: Tensor,
    *,
    image_size: int,
    crop_scale: tuple[float, float],
    crop_ratio: tuple[float, float],
    flip: bool,
    interpolation: str,
) -> Tensor:
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


def random_crop_window(
    draws: Tensor, height: Tensor, width: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
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
