"""A small ECA-ResNet, how its images are prepared, and random weights for any network."""

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax.models.inputs import channels_of

OPTIONS = {"stage_sizes": (1, 1, 0, 0), "small_images": True}
PREPROCESSING = {"image_size": 32, "crop_pct": 0.8, "interpolation": "bicubic", "mean": [0.4] * 3, "std": [0.3] * 3}


def random_variables(model, image_size=32, seed=0):
    """Running variances of an untrained network are 1 whatever its activations; small kernels keep logits apart."""
    image = jnp.zeros((1, image_size, image_size, channels_of(model)))
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale", "gain"):
            return np.ones(leaf.shape, np.float32)
        return (random.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
