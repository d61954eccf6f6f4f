"""Convolution with scaled weight standardisation, which does for a network what normalising its activations would."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import conv2d
from eca_jax.layers.conv import Initializer

# 1 / √Var[act(z)] for z ~ N(0, 1): what a convolution scales its kernel by to undo the activation before it
# (Brock et al., 2021, the table of the published NFNet code).
ACTIVATION_GAIN = {"relu": 1.7139588594436646, "silu": 1.7881293296813965}

kaiming_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class ScaledStdConv(nn.Module):
    """2-D convolution, NHWC, whose kernel is standardised per output channel (Brock et al., ICLR 2021, equation 4).

    W' = gain · γ · (W - mean) / √(fan_in · (var + ε)), mean and biased variance over the fan-in of one output
    channel, which with groups is that of its group. Padding is symmetric, as PyTorch's.

    Parameters: `kernel` float32 (k, k, C_in / groups, features), `bias` (features,), `gain` (features,).

    Attributes:
      gamma: the activation's gain, one of `ACTIVATION_GAIN`.
      gain_init: what `gain` starts from, 0 to start a residual branch from nothing.
      dtype: of the computation and the result; the kernel is standardised in float32.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    gamma: float = 1.0
    epsilon: float = 1e-5
    gain_init: Initializer = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H', W', features] in `dtype`."""
        k, features = self.kernel_size, (self.features,)
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", kaiming_fan_in, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, features, jnp.float32)
        gain = self.param("gain", self.gain_init, features, jnp.float32)

        fan_in = k * k * shape[2]
        mean = jnp.mean(kernel, axis=(0, 1, 2))
        var = jnp.var(kernel, axis=(0, 1, 2))
        kernel = (kernel - mean) * (gain * self.gamma * jax.lax.rsqrt(fan_in * (var + self.epsilon)))
        y = conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=k // 2,
            groups=self.groups,
        )
        return y + bias.astype(self.dtype)
