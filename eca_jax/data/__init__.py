"""Input pipelines: images from TFDS or a folder tree to uint8 NumPy batches. TensorFlow is imported on first use."""

from eca_jax.data.own import OwnBatches
from eca_jax.data.pipeline import eval_batches, steps_per_epoch, train_batches
from eca_jax.data.prefetch import prefetch_to_device
from eca_jax.data.preprocess import eval_image
from eca_jax.data.sources import Source, load_source

__all__ = [
    "OwnBatches",
    "Source",
    "eval_batches",
    "eval_image",
    "load_source",
    "prefetch_to_device",
    "steps_per_epoch",
    "train_batches",
]
