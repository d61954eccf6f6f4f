"""Compiled inference on uint8 images."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eca_jax.convert.load import read_weights
from eca_jax.layers.lowering import compiler_options
from eca_jax.models import Preprocessing, create_model, preprocessing
from eca_jax.training.step import normalize


def load_for_inference(
    name: str | None, path: str | os.PathLike, **options: Any
) -> tuple[str, nn.Module, dict[str, Any], Preprocessing]:
    """A model, its weights and how its images are prepared.

    Arguments and errors are those of `eca_jax.load`. Images are prepared as the training workdir or the weights
    directory says, and as the model's published weights need them where `path` is a PyTorch file.

    Returns:
      the model's name, the module, its variables, and the preprocessing.
    """
    weights = read_weights(name, path, **options)
    name = weights.model.name
    model = create_model(name, **weights.model.options)
    variables = {key: weights.variables[key] for key in ("params", "batch_stats") if key in weights.variables}
    stored = weights.meta.get("preprocessing")
    if stored is None:
        return name, model, variables, preprocessing(name)
    stored = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return name, model, variables, Preprocessing(**stored)


class Predictor:
    """A compiled model: uint8 RGB images [N, H, W, 3] in, float32 logits [N, K] out, both NumPy.

    Any number of images goes through in batches of `batch_size`, the last one padded, so that one program is
    compiled for each image size and no more.
    """

    def __init__(self, model: nn.Module, variables: dict[str, Any], preparation: Preprocessing, batch_size: int = 32):
        self._batch_size = batch_size
        self._variables = jax.device_put(variables)

        def logits(variables: dict[str, Any], images: jax.Array) -> jax.Array:
            return model.apply(variables, normalize(images, preparation.mean, preparation.std, model.dtype))

        self._logits = jax.jit(logits, compiler_options=compiler_options())

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Raises ValueError unless `images` is uint8 [N, H, W, 3]."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
        size = self._batch_size
        outputs = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padded = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
            outputs.append((self._logits(self._variables, padded), len(batch)))
        if not outputs:
            raise ValueError("there are no images to predict")
        return np.concatenate([np.asarray(logits)[:count] for logits, count in outputs])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax of the logits, float32 [N, K]."""
        return np.asarray(jax.nn.softmax(jnp.asarray(self(images))))
