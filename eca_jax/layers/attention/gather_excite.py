"""Gather-excite without parameters: a gate from the mean of a neighbourhood."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class GatherExcite(nn.Module):
    """GE-θ⁻ (Hu et al., NeurIPS 2018): x · σ(upsample(mean over neighbourhoods of x)), no parameters.

    Attributes:
      extent: neighbourhoods of 2 extent - 1 pixels at every `extent`-th one, over the pixels that exist, the nearest of
        which a pixel takes (timm's `GatherExcite`); 0 is the whole map, which is SE-Var1.
    """

    extent: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype. Nothing depends on `train`."""
        wide = x.astype(jnp.float32)
        if not self.extent:
            return x * nn.sigmoid(jnp.mean(wide, axis=(1, 2), keepdims=True)).astype(x.dtype)
        window, pad = (2 * self.extent - 1,) * 2, (self.extent - 1,) * 2
        means = nn.avg_pool(wide, window, (self.extent,) * 2, (pad, pad), count_include_pad=False)
        for axis in (1, 2):
            size, coarse = x.shape[axis], means.shape[axis]
            means = jnp.take(means, np.arange(size) * coarse // size, axis=axis)
        return x * nn.sigmoid(means).astype(x.dtype)
