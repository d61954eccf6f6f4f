"""Weights to and from PyTorch, by the names that other people's scripts import them under."""

from eca_jax.weights.torch.resolve import MismatchError
from eca_jax.weights.torch.state_dict import from_torch, model_options, to_torch

__all__ = ["MismatchError", "from_torch", "model_options", "to_torch"]
