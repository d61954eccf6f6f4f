"""Self-attention that stands in for a block's 3x3 convolution: global (BoTNet) and in blocks with a halo (HaloNet).

Both add relative position logits to the scaled products of queries and keys, and both follow timm where the papers
leave room: positions look at unscaled queries, nothing masks the zero padding, and a stride of 2 means an
average over the result (global) or queries at every other pixel (halo).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eca_jax.layers.conv import Conv


class RelativePosition(nn.Module):
    """Logits for the offset from a query's place to a key's, a learned vector per offset along each axis.

    The query at (y, x) gives the key at (v, u) the logit q · height_rel[v - y + h - 1] + q · width_rel[u - x + w - 1],
    (h, w) being the size of the window of keys (Bello et al., ICCV 2019, equation 4, per axis).

    Parameters: `height_rel` (2h - 1, D), `width_rel` (2w - 1, D).
    """

    window: tuple[int, int]

    @nn.compact
    def __call__(self, q: jax.Array) -> jax.Array:
        """Queries [..., Y, X, D] -> logits [..., Y, X, h, w]."""
        rows, columns, dim = q.shape[-3:]
        height, width = self.window
        init = nn.initializers.normal(dim**-0.5)
        height_rel = self.param("height_rel", init, (2 * height - 1, dim), jnp.float32).astype(q.dtype)
        width_rel = self.param("width_rel", init, (2 * width - 1, dim), jnp.float32).astype(q.dtype)
        along_height = jnp.einsum("...yxd,yvd->...yxv", q, height_rel[_offsets(rows, height)])
        along_width = jnp.einsum("...yxd,xud->...yxu", q, width_rel[_offsets(columns, width)])
        return along_height[..., :, None] + along_width[..., None, :]


def _offsets(queries: int, keys: int) -> np.ndarray:
    """Index [queries, keys] into a table of 2 * keys - 1 offsets."""
    return np.arange(keys)[None, :] - np.arange(queries)[:, None] + keys - 1


def attend(q: jax.Array, k: jax.Array, v: jax.Array, position: jax.Array) -> jax.Array:
    """softmax(q kᵀ / √D + position) v, the softmax in float32.

    q [..., Q, D], k [..., K, D], v [..., K, V], position [..., Q, K] -> [..., Q, V].
    """
    logits = jnp.einsum("...qd,...kd->...qk", q, k) * q.shape[-1] ** -0.5 + position
    weights = nn.softmax(logits.astype(jnp.float32)).astype(v.dtype)
    return jnp.einsum("...qk,...kv->...qv", weights, v)


class BottleneckAttention(nn.Module):
    """Every pixel attends to every pixel (Srinivas et al., CVPR 2021, figure 4). [N, H, W, C] -> [N, H', W', C].

    Parameters: `qkv/kernel`, and the tables of `pos_embed`, whose size is the feature map's: (2H - 1, dim_head).

    Attributes:
      feature_size: height and width of the input.
      stride: 2 averages 2x2 pixels of the result.
      dim_head: of queries and keys; values take C / num_heads.

    Raises:
      ValueError: the input is not of `feature_size`, which the position tables are made for.
    """

    feature_size: int
    stride: int = 1
    num_heads: int = 4
    dim_head: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        if (height, width) != (self.feature_size, self.feature_size):
            raise ValueError(
                f"the position tables are made for features of {self.feature_size}x{self.feature_size} pixels, "
                f"got {height}x{width}: build the model with the `image_size` of its input"
            )
        heads, qk = self.num_heads, self.num_heads * self.dim_head
        init = nn.initializers.normal(channels**-0.5)
        qkv = Conv(2 * qk + channels, 1, kernel_init=init, dtype=self.dtype, name="qkv")(x)
        q, k, v = (
            jnp.moveaxis(part.reshape(batch, height, width, heads, -1), 3, 1)
            for part in jnp.split(qkv, (qk, 2 * qk), axis=-1)
        )
        position = RelativePosition((height, width), name="pos_embed")(q)
        pixels = height * width
        q, k, v = (part.reshape(batch, heads, pixels, -1) for part in (q, k, v))
        y = attend(q, k, v, position.reshape(batch, heads, pixels, pixels))
        y = jnp.moveaxis(y, 1, 2).reshape(batch, height, width, channels)
        return y if self.stride == 1 else nn.avg_pool(y, (2, 2), strides=(2, 2))


class HaloAttention(nn.Module):
    """The pixels of a block attend to the block and a halo around it (Vaswani et al., CVPR 2021, figure 1).

    [N, H, W, C] -> [N, H / stride, W / stride, C]. Beyond the edge, keys and values are zero and take part.

    Parameters: `q/kernel`, `kv/kernel` (per head its keys, then its values), and the tables of `pos_embed`,
    (2 * (block_size + 2 * halo_size) - 1, dim_head) each.

    Attributes:
      stride: 2 takes queries at every other pixel.
      dim_head: of queries and keys; values take C / num_heads.

    Raises:
      ValueError: height or width is no multiple of `block_size`.
    """

    stride: int = 1
    num_heads: int = 8
    dim_head: int = 16
    block_size: int = 8
    halo_size: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        if height % self.block_size or width % self.block_size:
            raise ValueError(
                f"halo attention takes features in blocks of {self.block_size}x{self.block_size} pixels, "
                f"got {height}x{width}"
            )
        heads, dim = self.num_heads, self.dim_head
        rows, columns = height // self.block_size, width // self.block_size
        block, window = self.block_size // self.stride, self.block_size + 2 * self.halo_size
        init = nn.initializers.normal(channels**-0.5)

        q = Conv(heads * dim, 1, self.stride, kernel_init=init, dtype=self.dtype, name="q")(x)
        q = q.reshape(batch, rows, block, columns, block, heads, dim).transpose(0, 1, 3, 5, 2, 4, 6)

        kv = Conv(heads * dim + channels, 1, kernel_init=init, dtype=self.dtype, name="kv")(x)
        halo = (self.halo_size, self.halo_size)
        kv = jnp.pad(kv, ((0, 0), halo, halo, (0, 0)))
        kv = kv[:, self._windows(rows)][:, :, :, self._windows(columns)]
        kv = kv.reshape(batch, rows, window, columns, window, heads, -1).transpose(0, 1, 3, 5, 2, 4, 6)
        k, v = jnp.split(kv.reshape(batch, rows, columns, heads, window * window, -1), (dim,), axis=-1)

        position = RelativePosition((window, window), name="pos_embed")(q)
        q, position = (part.reshape(batch, rows, columns, heads, block * block, -1) for part in (q, position))
        y = attend(q, k, v, position)
        y = y.reshape(batch, rows, columns, heads, block, block, -1).transpose(0, 1, 4, 2, 5, 3, 6)
        return y.reshape(batch, rows * block, columns * block, channels)

    def _windows(self, blocks: int) -> np.ndarray:
        """Index [blocks, window] into an axis that is padded by the halo."""
        window = self.block_size + 2 * self.halo_size
        return self.block_size * np.arange(blocks)[:, None] + np.arange(window)[None, :]
