"""CBAM: a gate of the channels, then one of the pixels."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.attention.base import global_average_pool, round_channels
from eca_jax.layers.conv import Conv, Dense
from eca_jax.layers.norm import BatchNorm


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al., ECCV 2018; the authors' Jongchan/attention-module).

    Channels: s = σ(MLP(mean) + MLP(maximum) over the map), one MLP of C -> C / reduction -> C with ReLU. Then pixels of
    the rescaled map: σ(BN(conv([maximum, mean over channels]))), a convolution to one channel, without bias.

    2C²/r + C + C/r + 2k² + 2 parameters: `fc1` and `fc2`, which start as PyTorch's dense layers, `conv/kernel`
    (k, k, 2, 1), as the release's convolutions, and `bn`, whose scale starts at zero: every pixel's gate at one half.

    Attributes:
      reduction: C / reduction hidden units.
      use_bias: of the dense layers; timm's have none.
      spatial_size: k.
      bn_momentum: share of the old running statistics that is kept; 0.99 is the authors', of PyTorch's default 0.9.
    """

    reduction: int = 16
    use_bias: bool = True
    spatial_size: int = 7
    bn_momentum: float = 0.99
    bn_group_size: int | None = None
    dtype: Any = jnp.float32

    name_in_block: ClassVar[str] = "cbam"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype."""
        channels = x.shape[-1]
        fc1 = Dense(round_channels(channels / self.reduction, 1, floor=0.0), self.use_bias, name="fc1")
        fc2 = Dense(channels, self.use_bias, name="fc2")
        mean, maximum = global_average_pool(x), jnp.max(x, axis=(1, 2)).astype(jnp.float32)
        weights = nn.sigmoid(sum(fc2(nn.relu(fc1(pooled))) for pooled in (mean, maximum)))
        x = x * weights[:, None, None, :].astype(x.dtype)

        mean = jnp.mean(x, axis=-1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
        y = jnp.concatenate([jnp.max(x, axis=-1, keepdims=True), mean], axis=-1)
        y = Conv(1, self.spatial_size, dtype=self.dtype, name="conv")(y)
        norm = BatchNorm(
            self.bn_momentum,
            group_size=self.bn_group_size,
            dtype=self.dtype,
            scale_init=nn.initializers.zeros,
            name="bn",
        )
        return x * nn.sigmoid(norm(y, train)).astype(x.dtype)
