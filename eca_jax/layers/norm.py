"""Batch normalisation as an affine map per example and channel, with statistics over groups of examples."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import means
from eca_jax.layers.conv import Initializer


def scale_shift(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """scale * x + shift for x [N, H, W, C]; scale and shift, float32 [G, C], hold for N / G consecutive examples each.

    The result has x's dtype. The coefficients are rounded after they are broadcast, so that their gradients, sums over
    all positions, are taken in float32 also where x is bfloat16.
    """
    grouped = split_groups(x, scale.shape[0])

    def coefficient(v: jax.Array) -> jax.Array:
        return jnp.broadcast_to(v[:, None, None, None, :], grouped.shape).astype(x.dtype)

    return (grouped * coefficient(scale) + coefficient(shift)).reshape(x.shape)


def split_groups(x: jax.Array, groups: int) -> jax.Array:
    """[N, ...] -> [groups, N / groups, ...], consecutive examples together."""
    return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])


class BatchNorm(nn.Module):
    """Batch normalisation over (N, H, W), or over groups of `group_size` consecutive examples of the batch.

    Statistics are float32 whatever the input. A group is a reshape of the batch to [N / group_size, group_size, ...]:
    where the batch is sharded and a group lies on one device, the compiler needs no communication, and the result
    does not depend on the number of devices. Groups reproduce PyTorch's per-GPU statistics (the paper: 64 images a
    GPU).

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

    def affine(self, x: jax.Array, train: bool, *, with_mean: bool = False) -> tuple[jax.Array, jax.Array, Any]:
        """The normalisation of `x` [N, H, W, C] as `a * x + b`, for `scale_shift`.

        Returns:
          a, b: float32 [G, C], one row for each group of consecutive examples; G is 1 at inference.
          mean: float32 [N, C], the examples' means of x over height and width; None without `with_mean`, and at
            inference.

        Raises:
          ValueError: the batch does not split into groups, or a group has a single value per channel.
        """
        return self._affine(x, train, with_mean, rising=False)[1:]

    def rising(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x', a, b) so that the normalisation of x is `a * x' + b` with a >= 0, which commutes with max-pooling.

        x' is x, negated in the channels whose scale is negative. a, b and errors are those of `affine`.
        """
        return self._affine(x, train, with_mean=False, rising=True)[:3]

    @nn.compact
    def _affine(self, x: jax.Array, train: bool, with_mean: bool, rising: bool) -> tuple[Any, ...]:
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        sign: Any = jnp.where(scale < 0, -1.0, 1.0) if rising else 1.0
        x = x * sign.astype(x.dtype) if rising else x
        if not train:
            a = sign * scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            return x, a[None], (bias - a * sign * running_mean.value)[None], None

        examples = x.shape[0]
        group_size = self.group_size or examples
        if examples % group_size:
            raise ValueError(f"a batch of {examples} does not split into BatchNorm groups of {group_size}")
        count = group_size * x.shape[1] * x.shape[2]
        if count < 2:
            raise ValueError("BatchNorm needs more than one value per channel in training")

        grouped = split_groups(x.astype(jnp.float32), examples // group_size)
        per_example, mean = means(grouped) if with_mean else (None, jnp.mean(grouped, axis=(1, 2, 3)))
        # E[x^2] - E[x]^2 needs one pass over x; rounding may take it below zero.
        var = jnp.maximum(jnp.mean(jnp.square(grouped), axis=(1, 2, 3)) - jnp.square(mean), 0.0)

        if not self.is_initializing():
            unbiased = var * (count / (count - 1))
            running_mean.value = self._update(running_mean.value, sign * mean)
            running_var.value = self._update(running_var.value, unbiased)

        a = sign * scale * jax.lax.rsqrt(var + self.epsilon)
        return x, a, bias - a * mean, None if per_example is None else per_example.reshape(examples, channels)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> the same shape, in `dtype`."""
        a, b, _ = self.affine(x, train)
        return scale_shift(x.astype(self.dtype), a, b)

    def _update(self, running: jax.Array, groups: jax.Array) -> jax.Array:
        return self.momentum * running + (1 - self.momentum) * jnp.mean(groups, axis=0)
