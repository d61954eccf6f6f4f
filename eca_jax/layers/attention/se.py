"""Squeeze-and-Excitation, and the variants that the paper takes apart in its Table 2."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.attention.base import ChannelGate, round_channels
from eca_jax.layers.conv import Dense, Initializer, torch_uniform


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


class PlainGate(ChannelGate):
    """SE-Var1: s = σ(y), no parameters."""

    def gate(self, pooled: jax.Array) -> jax.Array:
        return nn.sigmoid(pooled)


class DiagonalGate(ChannelGate):
    """SE-Var2: s = σ(w ⊙ y), a weight for each channel.

    C parameters, `weight` (C,). The paper does not say how they start: here as a depthwise convolution of one tap does
    in PyTorch, U(±1).
    """

    name_in_block: ClassVar[str] = "se"

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        return nn.sigmoid(pooled * self.param("weight", torch_uniform(1), (pooled.shape[-1],), jnp.float32))


class DenseGate(ChannelGate):
    """SE-Var3: s = σ(W y), one dense layer that sees every channel, without bias.

    C² parameters, `fc/kernel` (C, C), which start as PyTorch's: U(±1/√C).
    """

    name_in_block: ClassVar[str] = "se"

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        return nn.sigmoid(Dense(pooled.shape[-1], use_bias=False, name="fc")(pooled))


class GroupedGate(ChannelGate):
    """SE-GC: s = σ(W y) with W of blocks along its diagonal, each channel seeing those of its group.

    C² / G parameters for G groups, `weight` (G, C / G, C / G), inputs before outputs, which start as those of a grouped
    convolution in PyTorch: U(±1/√(C / G)).

    Attributes:
      groups: G; None where `group_size` says it.
      group_size: C / G.

    Raises:
      ValueError: the channels do not split so, or not exactly one of the two is given.
    """

    groups: int | None = None
    group_size: int | None = None

    name_in_block: ClassVar[str] = "se"

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        batch, channels = pooled.shape
        divisor = self.groups or self.group_size
        if divisor is None or (self.groups and self.group_size):
            raise ValueError("a grouped gate takes either groups or group_size")
        if channels % divisor:
            what = f"{divisor} groups" if self.groups else f"groups of {divisor}"
            divisors = [d for d in range(1, channels + 1) if channels % d == 0]
            near = " or ".join(map(str, sorted(sorted(divisors, key=lambda d: abs(d - divisor))[:2])))
            raise ValueError(f"{channels} channels do not split into {what}; the nearest that they split into: {near}")
        groups = self.groups or channels // divisor
        size = channels // groups
        weight = self.param("weight", torch_uniform(size), (groups, size, size), jnp.float32)
        z = jnp.einsum("ngi,gio->ngo", pooled.reshape(batch, groups, size), weight)
        return nn.sigmoid(z.reshape(batch, channels))
