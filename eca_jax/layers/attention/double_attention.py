"""Double attention: gather what there is in the map, and give every pixel what it needs of it."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm


class DoubleAttention(nn.Module):
    """A² (Chen et al., NeurIPS 2018): x + BN(W_o (A Bᵀ) V) for the L pixels of a map.

    A = W_φ x, [m, L]; B = softmax over the pixels of W_θ x, [n, L]; V = softmax over the n of W_ρ x, [n, L]. The
    products are taken from the left, 2mnL of them; from the right it would be L²(m + n). m = n = C / reduction.

    2C² (reduction 2) and BN's 2C parameters: `a`, `b`, `v`, `out` and `bn`, whose scale starts at zero and the block as
    the identity (ours; the paper does not say). The authors published no code of it.

    The paper puts it between blocks.

    Attributes:
      norm: normalise the result; without, the block starts from random convolutions.
    """

    reduction: int = 2
    norm: bool = True
    bn_group_size: int | None = None
    dtype: Any = jnp.float32

    name_in_block: ClassVar[str] = "a2"
    place: ClassVar[str] = "after"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype."""
        channels, inner = x.shape[-1], x.shape[-1] // self.reduction
        a, b, v = (Conv(inner, 1, dtype=self.dtype, name=name)(x) for name in ("a", "b", "v"))
        b = nn.softmax(b.astype(jnp.float32), axis=(1, 2)).astype(self.dtype)
        v = nn.softmax(v.astype(jnp.float32), axis=-1).astype(self.dtype)
        gathered = jnp.einsum("nhwm,nhwk->nmk", a, b)
        y = Conv(channels, 1, dtype=self.dtype, name="out")(jnp.einsum("nmk,nhwk->nhwm", gathered, v))
        if self.norm:
            zeros = nn.initializers.zeros
            norm = BatchNorm(group_size=self.bn_group_size, dtype=self.dtype, scale_init=zeros, name="bn")
            y = norm(y, train)
        return x + y.astype(x.dtype)
