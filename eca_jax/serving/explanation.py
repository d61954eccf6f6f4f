"""Grad-CAM at work: where in an image its class is seen, as a program for the batcher."""

import functools
import time
from collections.abc import Sequence

import jax
import numpy as np

from eca_jax import kernels
from eca_jax.inference.grad_cam import grad_cam
from eca_jax.models.inputs import normalize
from eca_jax.weights.load import Weights


class Explanation:
    """Maps of a class in an image, one image at a time: whoever asks for one looks at it.

    Attributes:
      seconds: {1: how long an image takes}.
    """

    def __init__(self, weights: Weights):
        """Compiles it. Raises ValueError where the model has no layer that returns a map."""
        model, how = weights.model, weights.card.preprocessing
        self._variables = jax.device_put(weights.variables)

        def maps(variables: dict, images: jax.Array, classes: jax.Array) -> jax.Array:
            return grad_cam(model, variables, normalize(images, how.mean, how.std, model.dtype), classes)

        self._maps = functools.partial(kernels.jit(maps), self._variables)
        example = [(np.zeros(how.shape, np.uint8), 0)]
        self(example)
        started = time.perf_counter()
        self(example)
        self.seconds = {1: time.perf_counter() - started}

    def __call__(self, rows: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """For each (uint8 [S, S, C], class) the share of each place in the class, float32 [h, w] in [0, 1]."""
        return [np.asarray(self._maps(pixels[None], np.array([index], np.int32))[0]) for pixels, index in rows]
