"""Convolution and dense layers with PyTorch's conventions: integer padding, and its initialisations."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import Pointwise, conv2d, pointwise

Dtype = Any
Initializer = Callable[..., jax.Array]
Layer = Callable[..., nn.Module]  # a class or a partial: called with what is left of its fields, it makes the module

# N(0, sqrt(2 / (k * k * out))), the release's initialisation of convolutions; its fan-out ignores groups, as torch's.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_uniform(fan_in: int) -> Initializer:
    """PyTorch's default for weights and biases of linear layers and convolutions: U(-1/√fan_in, 1/√fan_in)."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """2-D convolution, NHWC, with symmetric integer padding as in PyTorch (never 'SAME').

    Parameters: `kernel` float32 (k, k, C_in / groups, features), and `bias` (features,) where asked for.

    Attributes:
      padding: pixels on each side; None means `kernel_size // 2`.
      dtype: of the computation and the result; parameters stay float32.
      bias_init: None is PyTorch's default.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = kaiming_fan_out
    bias_init: Initializer | None = None

    @overload
    def __call__(self, x: jax.Array) -> jax.Array: ...

    @overload
    def __call__(self, x: jax.Array, *, with_mean: Literal[True]) -> tuple[jax.Array, jax.Array]: ...

    @overload
    def __call__(self, x: jax.Array, *, unwritten: Literal[True]) -> Pointwise: ...

    @nn.compact
    def __call__(
        self, x: jax.Array, *, with_mean: bool = False, unwritten: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array] | Pointwise:
        """[N, H, W, C] -> [N, H', W', features] in `dtype`.

        With `with_mean` the result's mean over height and width comes along, float32 [N, features], computed from
        the *input*: a convolution is linear, so its mean is the kernel applied to means of the input. Only for
        convolutions where that is exact and cheap (see `mean_commutes`).

        With `unwritten`, and neither `with_mean` nor a bias, the same convolutions come as what `kernels.pointwise`
        makes of them, for a BatchNorm in training.
        """
        k, channels = self.kernel_size, x.shape[-1]
        shape = (k, k, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        if unwritten:
            return pointwise(x.astype(self.dtype), kernel)
        padding = k // 2 if self.padding is None else self.padding
        y = conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=padding,
            groups=self.groups,
        )
        bias = None
        if self.use_bias:
            bias_init = self.bias_init or torch_uniform(k * k * channels // self.groups)
            bias = self.param("bias", bias_init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        if not with_mean:
            return y
        if not self.mean_commutes:
            raise ValueError("only a 1x1 convolution of stride 1 has its mean computed from its input")
        # The rounded kernel, so that under bfloat16 the descriptor is the one of the convolution that runs.
        rounded = kernel.astype(self.dtype).astype(jnp.float32)[0, 0]
        mean = jnp.mean(x.astype(self.dtype), axis=(1, 2), dtype=jnp.float32)
        mean = jnp.dot(mean, rounded, precision=jax.lax.Precision.HIGHEST)
        return y, mean if bias is None else mean + bias

    @property
    def mean_commutes(self) -> bool:
        """Whether `with_mean` is available: a pointwise convolution that sees every pixel."""
        return self.kernel_size == 1 and self.stride == 1 and self.groups == 1 and not self.padding


class Dense(nn.Module):
    """Linear layer, float32 by default: [N, C] -> [N, features]. Parameters: `kernel` (C, features), `bias`."""

    features: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = x.shape[-1]
        kernel_init = self.kernel_init or torch_uniform(fan_in)
        kernel = self.param("kernel", kernel_init, (fan_in, self.features), jnp.float32)
        y = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", self.bias_init or torch_uniform(fan_in), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y
