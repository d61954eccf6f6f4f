"""Efficient Channel Attention and its ablations: convolutions along the channel axis of the pooled descriptor."""

import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import one_filter
from eca_jax.layers.attention.base import ChannelGate, round_channels
from eca_jax.layers.attention.hidden import taps_of_hidden
from eca_jax.layers.conv import torch_uniform


def eca_kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    """Kernel size of ECA for a number of channels: |log2(C)/γ + b/γ|_odd, the paper's equation 12.

    "Odd" is taken as the released code does: truncate, then add one where the result is even.

    Raises:
      ValueError: `channels` is not positive.
    """
    if channels < 1:
        raise ValueError(f"channels must be a positive number, got {channels}")
    t = int(abs((math.log2(channels) + b) / gamma))
    return t if t % 2 else t + 1


class ChannelConv(nn.Module):
    """One-dimensional convolution along the channel axis of pooled descriptors, in float32.

    [N, C] -> [N, C] for `features=1`; several features, or several input features, add a last axis:
    [N, C, I] -> [N, C, F]. The kernel has shape (k, I, F), the layout of `lax.conv_general_dilated` for "WIO".
    Channels beyond the ends count as zero, or wrap around where `circular`. With `fast`, a single filter runs as
    `kernels.one_filter`.
    """

    kernel_size: int
    features: int = 1
    circular: bool = False
    use_bias: bool = False
    fast: bool = False

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        _check_odd(self.kernel_size)
        z = pooled.astype(jnp.float32)
        inputs = z.shape[2] if z.ndim == 3 else 1
        fan_in = self.kernel_size * inputs
        kernel = self.param("kernel", torch_uniform(fan_in), (self.kernel_size, inputs, self.features), jnp.float32)
        if self.fast and z.ndim == 2 and self.features == 1:
            z = one_filter(z, kernel[:, 0, 0], self.circular)
        else:
            pad = self.kernel_size // 2
            z = z.reshape(*z.shape[:2], inputs)
            z = jnp.pad(z, ((0, 0), (pad, pad), (0, 0)), mode="wrap" if self.circular else "constant")
            z = jax.lax.conv_general_dilated(
                z,
                kernel,
                window_strides=(1,),
                padding="VALID",
                dimension_numbers=("NWC", "WIO", "NWC"),
                precision=jax.lax.Precision.HIGHEST,  # on a TPU the default would round to bfloat16
            )
            z = z[..., 0] if self.features == 1 else z
        if self.use_bias:
            z = z + self.param("bias", torch_uniform(fan_in), (self.features,), jnp.float32)
        return z


class ECA(ChannelGate):
    """Efficient Channel Attention (Wang et al., CVPR 2020, equations 9 and 12, figure 2).

    Global average pool, one convolution of `kernel_size` taps shared by all channels (zero padding, no bias),
    sigmoid, scale. NHWC in, NHWC out. Its only parameter is `conv/kernel` (k, 1, 1).

    Attributes:
      kernel_size: odd; None takes the adaptive size `eca_kernel_size(C, gamma, b)`.
      gamma, b: of the adaptive size.
      circular: channels wrap around instead of being padded with zeros (timm's `CecaModule`).
    """

    kernel_size: int | None = None
    gamma: float = 2
    b: float = 1
    circular: bool = False

    name_in_block: ClassVar[str] = "eca"
    kernel_path: ClassVar[tuple[str, ...]] = ("conv", "kernel")

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        kernel_size = (
            eca_kernel_size(pooled.shape[-1], self.gamma, self.b) if self.kernel_size is None else self.kernel_size
        )
        return nn.sigmoid(ChannelConv(kernel_size, circular=self.circular, fast=self.fast, name="conv")(pooled))


class ECAM(ChannelGate):
    """ECA with a hidden layer, timm's `ecam` (`EcaModule(use_mlp=True)`); an experiment of timm's, not the paper's.

    Every channel's mean goes through a 1-tap convolution to `reduction`-times fewer features than there are channels,
    ReLU, and a convolution of `kernel_size` taps back to one weight a channel, then a sigmoid. Both have biases.

    Attributes:
      kernel_size: odd; None takes timm's adaptive size, the paper's but at least 3.
      reduction: C / reduction hidden features, rounded to a multiple of 8.
    """

    kernel_size: int | None = None
    reduction: int = 8

    name_in_block: ClassVar[str] = "eca"
    kernel_path: ClassVar[tuple[str, ...]] = ("conv2", "kernel")

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        channels = pooled.shape[-1]
        kernel_size = max(eca_kernel_size(channels), 3) if self.kernel_size is None else self.kernel_size
        hidden = round_channels(channels / self.reduction)
        first = ChannelConv(1, features=hidden, use_bias=True, name="conv")
        second = ChannelConv(kernel_size, use_bias=True, name="conv2")
        if not self.fast or self.is_initializing():
            return nn.sigmoid(second(nn.relu(first(pooled))))
        kernel, bias = (second.variables["params"][key] for key in ("kernel", "bias"))
        weights = first.variables["params"]
        taps = taps_of_hidden(pooled, weights["kernel"][0, 0], weights["bias"], kernel[..., 0])
        pad = kernel_size // 2
        padded = jnp.pad(taps, ((0, 0), (0, 0), (pad, pad)))
        return nn.sigmoid(sum(padded[i, :, i : i + channels] for i in range(kernel_size)) + bias)


class UnsharedECA(ChannelGate):
    """ECA-NS, ECA with a kernel for every channel (the paper's section 3.2.1; the release's models/eca_ns.py).

    s_i = σ(Σ_j w_{j,i} y_{i+j-k//2}), channels beyond the ends being zero. kC parameters, `conv/kernel` (k, 1, C) as of
    a depthwise convolution, which start as PyTorch's: U(±1/√k).

    Attributes:
      kernel_size: odd; None takes the adaptive size `eca_kernel_size(C)`.
    """

    kernel_size: int | None = 3

    name_in_block: ClassVar[str] = "eca"
    kernel_path: ClassVar[tuple[str, ...]] = ("conv", "kernel")

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        kernel_size = eca_kernel_size(pooled.shape[-1]) if self.kernel_size is None else self.kernel_size
        return nn.sigmoid(UnsharedChannelConv(kernel_size, name="conv")(pooled))


class UnsharedChannelConv(nn.Module):
    """Along the channels of pooled descriptors, with taps of their own for each place: [N, C] -> [N, C], float32."""

    kernel_size: int

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        _check_odd(self.kernel_size)
        z = pooled.astype(jnp.float32)
        kernel = self.param("kernel", torch_uniform(self.kernel_size), (self.kernel_size, 1, z.shape[1]), jnp.float32)
        channels, pad = z.shape[1], self.kernel_size // 2
        z = jnp.pad(z, ((0, 0), (pad, pad)))
        return sum(taps * z[:, i : i + channels] for i, taps in enumerate(kernel[:, 0]))


class StackedECA(ChannelGate):
    """Several convolutions one after another before the sigmoid (the paper's supplement, section B).

    The paper does not say what stands between them. Linear convolutions one after another are one of more taps but at
    the ends of the channel axis, so that here it is ReLU unless `activation` is None. depth · k parameters,
    `conv_0/kernel`, ... (k, 1, 1), which start as ECA's.

    Attributes:
      kernel_size: of each, odd; None takes the adaptive size `eca_kernel_size(C)`.
      depth: the number of convolutions.
      activation: between them, "relu" or None.
    """

    kernel_size: int | None = None
    depth: int = 2
    activation: Literal["relu"] | None = "relu"

    name_in_block: ClassVar[str] = "eca"
    kernel_path: ClassVar[tuple[str, ...]] = ("conv_0", "kernel")

    @nn.compact
    def gate(self, pooled: jax.Array) -> jax.Array:
        if self.activation not in ("relu", None):
            raise ValueError(f"activation is 'relu' or None, not {self.activation!r}")
        kernel_size = eca_kernel_size(pooled.shape[-1]) if self.kernel_size is None else self.kernel_size
        z = pooled
        for index in range(self.depth):
            z = nn.relu(z) if index and self.activation else z
            z = ChannelConv(kernel_size, fast=self.fast, name=f"conv_{index}")(z)
        return nn.sigmoid(z)


def _check_odd(kernel_size: int) -> None:
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise ValueError(f"kernel_size must be odd and 1 or more, got {kernel_size}")
