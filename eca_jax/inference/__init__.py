"""Weights at work: compiled inference, prediction and evaluation."""

from eca_jax.inference.predictor import Predictor

__all__ = ["Predictor"]
