"""ECA-Net (Efficient Channel Attention, CVPR 2020) in JAX/Flax."""

from eca_jax import convert, layers
from eca_jax.convert import load
from eca_jax.layers import eca_kernel_size
from eca_jax.models import create_model, list_models

__version__ = "0.1.0"
__all__ = ["convert", "create_model", "eca_kernel_size", "layers", "list_models", "load"]
