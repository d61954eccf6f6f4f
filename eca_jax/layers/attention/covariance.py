"""Second-order pooling: a gate from how the channels vary together."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.conv import Conv, Dense, kaiming_fan_out, torch_uniform
from eca_jax.layers.norm import BatchNorm


class GSoP(nn.Module):
    """Global second-order pooling (Gao et al., CVPR 2019; the authors' GSoP-Net1, by its names).

    u = relu(BN(conv(relu(x)))) of d channels; Σ = their covariance over the map's pixels, [d, d]; BN with one scale a
    row; each row through four filters of its own, then 1x1 to C channels, and a sigmoid: x · s. Nothing stands between
    the last two. Covariances, and all that follows, are float32 whatever `dtype`.

    Cd + 5d + 4d² + 4d + 4dC + C parameters: `conv_for_DR` with bias, `bn_for_DR`, `row_bn`, `row_conv_group` (d, 1, 1,
    4d) with bias and `fc_adapt_channels`; convolutions start as the release's, their biases as PyTorch's.

    Attributes:
      reduced: d.
      stride: of the first convolution; None is the authors': 2 in the first stage, 1 elsewhere.
      stage: counted from 0, which a network sets.
    """

    reduced: int = 128
    stride: int | None = None
    stage: int | None = None
    bn_group_size: int | None = None
    dtype: Any = jnp.float32

    name_in_block: ClassVar[str] = "gsop"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype."""
        stride = self.stride or (2 if self.stage == 0 else 1)
        conv = Conv(self.reduced, 1, stride, use_bias=True, dtype=self.dtype, name="conv_for_DR")
        u = BatchNorm(group_size=self.bn_group_size, dtype=self.dtype, name="bn_for_DR")(conv(nn.relu(x)), train)
        rows = covariance(nn.relu(u))[:, :, None, :]  # symmetric: the last axis is the rows, the first the columns
        rows = BatchNorm(group_size=self.bn_group_size, name="row_bn")(rows, train)[:, :, 0]
        weights = nn.sigmoid(
            Dense(x.shape[-1], kernel_init=kaiming_fan_out, name="fc_adapt_channels")(
                RowFilters(4, name="row_conv_group")(rows)
            )
        )
        return x * weights[:, None, None, :].astype(x.dtype)


class RowFilters(nn.Module):
    """`count` filters for each row of a matrix, as a grouped convolution: [N, columns, rows] -> [N, rows * count]."""

    count: int

    @nn.compact
    def __call__(self, matrix: jax.Array) -> jax.Array:
        _, columns, rows = matrix.shape
        kernel = self.param("kernel", kaiming_fan_out, (columns, 1, 1, rows * self.count), jnp.float32)
        bias = self.param("bias", torch_uniform(columns), (rows * self.count,), jnp.float32)
        filtered = jnp.einsum("ncr,crk->nrk", matrix, kernel.reshape(columns, rows, self.count))
        return filtered.reshape(-1, rows * self.count) + bias


def covariance(x: jax.Array) -> jax.Array:
    """Of the channels over the pixels, by their number: [N, H, W, C] -> float32 [N, C, C].

    Centred first: from sums of squares a float32 would lose what is small beside the means.
    """
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("nhwc,nhwd->ncd", x, x, precision=highest) / (x.shape[1] * x.shape[2])
