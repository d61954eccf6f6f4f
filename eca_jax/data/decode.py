"""Image files to pixels, as TensorFlow graphs.

Errors in the data (a truncated file) are errors of the tf.data element.
"""

from eca_jax.data.runtime import Tensor, tensorflow


def decode(encoded: Tensor) -> Tensor:
    """Decodes JPEG or PNG bytes to uint8 [H, W, 3], bit-equal to PIL for RGB and greyscale files."""
    tf = tensorflow()
    # Despite its name the kernel recognises PNG too; the accurate DCT is PIL's (the default is up to 6 levels off).
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def decode_window(encoded: Tensor, shape: Tensor, window: Tensor) -> Tensor:
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
