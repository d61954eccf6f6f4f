"""Attentions that see how a channel varies over the map beside its mean, each a weight a channel (SimAM: a pixel)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.norm import BatchNorm


class GCT(nn.Module):
    """Gated channel transformation (Yang et al., CVPR 2020).

    e = α √(Σ x² + ε) over the map, s = 1 + tanh(γ e / √(mean_C e² + ε) + β), x · s: channels compete by their energy.

    3C parameters, `alpha`, `gamma` and `beta` (C,), which start at 1, 0 and 0: as the identity. The authors put it
    before every convolution and keep weight decay from β; here it is where every attention is.
    """

    epsilon: float = 1e-5

    name_in_block: ClassVar[str] = "gct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype. Nothing depends on `train`."""
        shape = (x.shape[-1],)
        alpha = self.param("alpha", nn.initializers.ones, shape, jnp.float32)
        gamma = self.param("gamma", nn.initializers.zeros, shape, jnp.float32)
        beta = self.param("beta", nn.initializers.zeros, shape, jnp.float32)
        energy = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2))
        e = alpha * jnp.sqrt(energy + self.epsilon)
        e = e * gamma * jax.lax.rsqrt(jnp.mean(jnp.square(e), axis=-1, keepdims=True) + self.epsilon)
        return x * (1 + jnp.tanh(e + beta))[:, None, None, :].astype(x.dtype)


class SRM(nn.Module):
    """Style-based recalibration (Lee et al., ICCV 2019).

    z_c = w_c · (mean, deviation) of channel c over the map, s = σ(BN(z)), x · s. The deviation is √(var + 1e-5), var
    over HW - 1 as PyTorch's; of a single pixel it is √1e-5.

    2C + 2C parameters, `weight` (C, 2) and `bn`, whose statistics are over the examples alone. `weight` starts at zero,
    as the authors' (hyunjaelee410/style-based-recalibration-module), and every gate at one half.

    Raises:
      ValueError: in training, a batch or group of one example.
    """

    bn_group_size: int | None = None

    name_in_block: ClassVar[str] = "srm"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype."""
        weight = self.param("weight", nn.initializers.zeros, (x.shape[-1], 2), jnp.float32)
        mean, squares, count = _centred(x)
        deviation = jnp.sqrt(jnp.sum(squares, axis=(1, 2)) / max(count - 1, 1) + 1e-5)
        z = (mean * weight[:, 0] + deviation * weight[:, 1])[:, None, None, :]
        return x * nn.sigmoid(BatchNorm(group_size=self.bn_group_size, name="bn")(z, train)).astype(x.dtype)


class SimAM(nn.Module):
    """SimAM (Yang et al., ICML 2021), without parameters: x · σ(d / (4 (Σd / (HW - 1) + λ)) + 1/2), d = (x - mean)².

    A pixel counts by how far it is from its channel's others.
    """

    regularization: float = 1e-4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> the same shape and dtype. Nothing depends on `train`."""
        _, squares, count = _centred(x)
        variance = jnp.sum(squares, axis=(1, 2), keepdims=True) / max(count - 1, 1)
        return x * nn.sigmoid(squares / (4 * (variance + self.regularization)) + 0.5).astype(x.dtype)


def _centred(x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Mean over the map [N, C], squared differences from it [N, H, W, C], both float32, and the pixels of a map."""
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axis=(1, 2))
    return mean, jnp.square(x - mean[:, None, None, :]), x.shape[1] * x.shape[2]
