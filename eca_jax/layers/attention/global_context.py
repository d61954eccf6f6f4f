"""Global context: one weighted mean of the map for all pixels, transformed and given to each."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.attention.base import round_channels
from eca_jax.layers.conv import Conv, Dense

_kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class GlobalContext(nn.Module):
    """GCNet's block (Cao et al., 2019; the authors' context_block.py).

    α = softmax over pixels of w·x_p + c, context = Σ_p α_p x_p, t = W₂ relu(LN(W₁ context)), and x_p + t.

    C + 1 + 2Ch + C + 3h parameters: `mask` (to one channel), `fc1`, `norm` and `fc2`. The mask starts as He et al.'s
    (fan-in), `fc2` at zero and the block as the identity. c cancels in the softmax and has no gradient.

    Attributes:
      reduction: h is C / reduction.
      fuse: "add", the paper's, or "scale" by σ(t), timm's `gc` (with `reduction` 8).
      epsilon: of the layer normalisation; timm's is 1e-6.
    """

    reduction: int = 16
    fuse: Literal["add", "scale"] = "add"
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    name_in_block: ClassVar[str] = "gc"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype. Nothing depends on `train`."""
        if self.fuse not in ("add", "scale"):
            raise ValueError(f"fuse is 'add' or 'scale', not {self.fuse!r}")
        channels = x.shape[-1]
        logits = Conv(1, 1, use_bias=True, kernel_init=_kaiming_fan_in, dtype=self.dtype, name="mask")(x)
        weights = nn.softmax(logits[..., 0].astype(jnp.float32), axis=(1, 2))
        context = jnp.einsum("nhw,nhwc->nc", weights, x.astype(jnp.float32))
        hidden = Dense(round_channels(channels / self.reduction, 1, floor=0.0), name="fc1")(context)
        hidden = nn.relu(nn.LayerNorm(epsilon=self.epsilon, name="norm")(hidden))
        zeros = nn.initializers.zeros
        t = Dense(channels, kernel_init=zeros, bias_init=zeros, name="fc2")(hidden)[:, None, None, :]
        return x + t.astype(x.dtype) if self.fuse == "add" else x * nn.sigmoid(t).astype(x.dtype)
