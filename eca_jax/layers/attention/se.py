"""Squeeze-and-Excitation: a gate of two dense layers."""

from typing import ClassVar

import jax
from flax import linen as nn

from eca_jax.layers.attention.base import ChannelGate, round_channels
from eca_jax.layers.conv import Dense, Initializer


class SE(ChannelGate):
    """Squeeze-and-Excitation (Hu et al., CVPR 2018): two dense layers, ReLU between, sigmoid after.

    Parameters: `fc1/kernel` (C, h), `fc2/kernel` (h, C), and biases where asked for.

    Attributes:
      reduction: C / reduction hidden units, rounded to a multiple of `divisor`.
      use_bias: the paper's SE rows are bias-free; timm's have biases.
      kernel_init: of both layers; None is PyTorch's default for linear layers.
    """

    reduction: int = 16
    divisor: int = 1
    use_bias: bool = False
    kernel_init: Initializer | None = None

    name_in_block: ClassVar[str] = "se"

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        channels = pooled.shape[-1]
        hidden = round_channels(channels / self.reduction, self.divisor, floor=0.0)
        z = nn.relu(Dense(hidden, self.use_bias, kernel_init=self.kernel_init, name="fc1")(pooled))
        return nn.sigmoid(Dense(channels, self.use_bias, kernel_init=self.kernel_init, name="fc2")(z))
