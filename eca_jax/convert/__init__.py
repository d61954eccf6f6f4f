"""Weights to and from PyTorch: the release, torchvision and timm."""

from eca_jax.convert.load import load
from eca_jax.convert.state_dict import MismatchError, from_torch, model_options, to_torch

__all__ = ["MismatchError", "from_torch", "load", "model_options", "to_torch"]
