"""Attention-augmented convolution: some of a convolution's channels see the whole map."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.conv import Conv
from eca_jax.layers.self_attention import RelativePosition, attend


class AugmentedConv(nn.Module):
    """Attention-augmented convolution (Bello et al., ICCV 2019), which takes the place of a 3x3 one in a bottleneck.

    concat[conv(x), W_o MHA(x)] of F - d_v and d_v channels. The queries are scaled before their products with keys and
    with the vectors of their relative positions, one for each offset along each axis, shared by the heads. Where the
    stride is 2, queries, keys and values are of every other pixel.

    9C(F - d_v) + C(2d_k + d_v) + d_v² and 2(H + W - 1) d_k / heads parameters, no biases: `conv`, `qkv`, `out`, which
    start as the release's convolutions, and the tables of `relative`, N(0, √(heads / d_k)). They are of a map's size.

    Attributes:
      features: F; None is C.
      value_share: of F, d_v; rounded down to a multiple of `num_heads`, and at least that.
      key_share: of F, d_k, and at least 20 for each head.
      half_stages: those whose maps are halved by an average of 3x3 pixels before the attention, and its result enlarged
        bilinearly: for memory's sake, in the paper stage 1 (conv3).
      stage: counted from 0, which a network sets.

    Raises:
      ValueError: the map is not of the size that the tables were made for.
    """

    features: int | None = None
    stride: int = 1
    value_share: float = 0.1
    key_share: float = 0.2
    num_heads: int = 8
    half_stages: tuple[int, ...] = ()
    stage: int | None = None
    dtype: Any = jnp.float32

    name_in_block: ClassVar[str] = "conv2"
    place: ClassVar[str] = "conv"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, F] of x's dtype. Nothing depends on `train`."""
        heads, features = self.num_heads, self.features or x.shape[-1]
        value = max(heads, int(features * self.value_share) // heads * heads)
        key = max(20 * heads, int(features * self.key_share) // heads * heads)
        convolved = Conv(features - value, 3, self.stride, dtype=self.dtype, name="conv")(x)

        seen = x
        if halved := self.stage in self.half_stages:
            seen = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False)
        qkv = Conv(2 * key + value, 1, self.stride, dtype=self.dtype, name="qkv")(seen)
        batch, height, width, _ = qkv.shape
        self._check_size(height, width)
        q, k, v = (
            jnp.moveaxis(part.reshape(batch, height, width, heads, -1), 3, 1)
            for part in jnp.split(qkv, (key, 2 * key), axis=-1)
        )
        position = RelativePosition((height, width), name="relative")(q * q.shape[-1] ** -0.5)
        pixels = height * width
        q, k, v = (part.reshape(batch, heads, pixels, -1) for part in (q, k, v))
        y = attend(q, k, v, position.reshape(batch, heads, pixels, pixels))
        y = jnp.moveaxis(y, 1, 2).reshape(batch, height, width, value)
        y = Conv(value, 1, dtype=self.dtype, name="out")(y)
        if halved:
            y = jax.image.resize(y, (*convolved.shape[:3], value), "bilinear")
        return jnp.concatenate([convolved, y], axis=-1).astype(x.dtype)

    def _check_size(self, height: int, width: int) -> None:
        if self.has_variable("params", "relative"):
            tables: Any = self.get_variable("params", "relative")
            made = tuple((tables[name].shape[0] + 1) // 2 for name in ("height_rel", "width_rel"))
            if made != (height, width):
                raise ValueError(
                    f"the position tables are made for maps of {made[0]}x{made[1]} pixels, got {height}x{width}: "
                    "images must be of the size that the network was initialised with"
                )
