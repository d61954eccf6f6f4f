"""Batch normalisation as an affine map per example and channel, with statistics over groups of examples."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.conv import Initializer


def scale_shift(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """scale * x + shift for x [N, H, W, C] and float32 scale, shift [N or 1, C]; the result has x's dtype."""
    return x * scale[:, None, None, :].astype(x.dtype) + shift[:, None, None, :].astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over (N, H, W), or over groups of `group_size` consecutive examples of the batch.

    Statistics are float32 whatever the input. They start as per-example means [N, C], and a group is a reshape of
    those to [N / group_size, group_size, C]: where the batch is sharded and a group lies on one device, the
    compiler needs no communication, and the result does not depend on the number of devices. Groups reproduce
    PyTorch's per-GPU statistics (the paper: 64 images a GPU).

    Parameters `scale`, `bias`; running statistics `mean`, `var` in `batch_stats`. The running variance is
    unbiased, n / (n - 1), as PyTorch's; over several groups the running statistics take the mean of the groups'.

    Attributes:
      momentum: share of the old running statistics that is kept; 0.9 is PyTorch's `momentum=0.1`.
      group_size: examples that share statistics; None is the whole batch.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    group_size: int | None = None
    dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def affine(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """The normalisation of `x` [N, H, W, C] as `a * x + b`.

        Returns:
          a, b: float32 [N, C], or [1, C] where all examples share them.
          pooled: float32 [N, C], the examples' means of x over height and width, which training computes
            anyway; None at inference.

        Raises:
          ValueError: the batch does not split into groups, or a group has a single value per channel.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if not train:
            a = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            return a[None], (bias - a * running_mean.value)[None], None

        examples = x.shape[0]
        group_size = self.group_size or examples
        if examples % group_size:
            raise ValueError(f"a batch of {examples} does not split into BatchNorm groups of {group_size}")
        count = group_size * x.shape[1] * x.shape[2]
        if count < 2:
            raise ValueError("BatchNorm needs more than one value per channel in training")

        x = x.astype(jnp.float32)
        pooled = jnp.mean(x, axis=(1, 2))
        pooled_square = jnp.mean(jnp.square(x), axis=(1, 2))
        groups = (examples // group_size, group_size, channels)
        mean = jnp.mean(pooled.reshape(groups), axis=1)
        # E[x^2] - E[x]^2 needs one pass over x; rounding may take it below zero.
        var = jnp.maximum(jnp.mean(pooled_square.reshape(groups), axis=1) - jnp.square(mean), 0.0)

        if not self.is_initializing():
            unbiased = var * (count / (count - 1))
            running_mean.value = self._update(running_mean.value, mean)
            running_var.value = self._update(running_var.value, unbiased)

        a = scale * jax.lax.rsqrt(var + self.epsilon)
        b = bias - a * mean
        if groups[0] > 1:
            a, b = (jnp.repeat(v, group_size, axis=0) for v in (a, b))
        return a, b, pooled

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> the same shape, in `dtype`."""
        a, b, _ = self.affine(x, train)
        return scale_shift(x.astype(self.dtype), a, b)

    def _update(self, running: jax.Array, groups: jax.Array) -> jax.Array:
        return self.momentum * running + (1 - self.momentum) * jnp.mean(groups, axis=0)
