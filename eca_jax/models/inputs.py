"""What a model takes in: how an image becomes the array that the network sees."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eca_jax.kernels.lowering import in_parts

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How evaluation prepares an image: resize the short side, centre crop, scale to [0, 1], normalise.

    Attributes:
      image_size: pixels, the side of the crop.
      resize_size: pixels, the short side before the crop.
      interpolation: "bilinear" or "bicubic", both antialiased.
      mean, std: per RGB channel, of values in [0, 1].
    """

    image_size: int = 224
    resize_size: int = 256
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any) -> jax.Array:
    """(images / 255 - mean) / std per channel, uint8 -> `dtype`: one multiply-add, rounded once from float32."""
    means, deviations = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return (images.astype(jnp.float32) * (1 / (255 * deviations)) - means / deviations).astype(dtype)


def on_pixels(model: nn.Module, preprocessing: Preprocessing) -> Callable[[Any, jax.Array], Any]:
    """`predict(variables, images) -> output`: what the model returns for uint8 images [N, H, W, 3] at inference."""

    def predict(variables: Any, images: jax.Array) -> Any:
        def network(images: jax.Array) -> Any:
            inputs = normalize(images, preprocessing.mean, preprocessing.std, model.dtype)
            return model.apply(variables, inputs, train=False)

        return in_parts(network, images)

    return predict
