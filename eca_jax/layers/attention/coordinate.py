"""Coordinate attention: a gate for each row and one for each column."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.attention.base import round_channels
from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm


class CoordinateAttention(nn.Module):
    """Coordinate attention (Hou et al., CVPR 2021; timm's `CoordAttn`, whose defaults are taken).

    Means over the columns and over the rows, [N, H + W, C], go through one 1x1 convolution to h channels, BN and
    hard-swish, and then apart through one each back to C and a sigmoid: x_{ij} · a_i · b_j.

    3Ch + 2h parameters without biases: `conv1`, `bn1`, `conv_h` and `conv_w`, starting as the release's convolutions.

    Attributes:
      reduction, divisor: h is C / reduction, rounded to a multiple of `divisor`. The paper's h is max(8, C / 32).
      use_bias: of the convolutions; the authors have them.
    """

    reduction: float = 24
    divisor: int = 8
    use_bias: bool = False
    bn_group_size: int | None = None
    dtype: Any = jnp.float32

    name_in_block: ClassVar[str] = "coord"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype."""
        height, channels = x.shape[1], x.shape[-1]
        hidden = round_channels(channels / self.reduction, self.divisor, floor=0.0)
        rows, columns = (jnp.mean(x, axis=axis, dtype=jnp.float32).astype(self.dtype) for axis in (2, 1))
        y = jnp.concatenate([rows, columns], axis=1)[:, :, None, :]
        y = Conv(hidden, 1, use_bias=self.use_bias, dtype=self.dtype, name="conv1")(y)
        y = nn.hard_swish(BatchNorm(group_size=self.bn_group_size, dtype=self.dtype, name="bn1")(y, train))
        a, b = (
            nn.sigmoid(Conv(channels, 1, use_bias=self.use_bias, dtype=self.dtype, name=name)(part)).astype(x.dtype)
            for name, part in (("conv_h", y[:, :height]), ("conv_w", y[:, height:]))
        )
        return x * a * jnp.swapaxes(b, 1, 2)
