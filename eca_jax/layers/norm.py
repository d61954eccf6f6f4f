"""Batch normalisation as an affine map per example and channel, with statistics over groups of examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import batch_statistics, scale_shift
from eca_jax.layers.conv import Initializer

# (x, groups, with_mean) -> what `batch_statistics` returns
Statistics = Callable[[jax.Array, int, bool], tuple[jax.Array, ...]]


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

    def affine(
        self, x: jax.Array, train: bool, *, with_mean: bool = False, statistics: Statistics = batch_statistics
    ) -> tuple[jax.Array, jax.Array, Any]:
        """The normalisation of `x` [N, H, W, C] as `a * x + b`, for `scale_shift`.

        `statistics` are those of x in training, where something else knows them better than x.

        Returns:
          a, b: float32 [G, C], one row for each group of consecutive examples; G is 1 at inference.
          mean: float32 [N, C], the examples' means of x over height and width; None without `with_mean`, and at
            inference.

        Raises:
          ValueError: the batch does not split into groups, or a group has a single value per channel.
        """
        return self._affine(x, train, with_mean, statistics, rising=False)[1:]

    def rising(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x', a, b) so that the normalisation of x is `a * x' + b` with a >= 0, which commutes with max-pooling.

        x' is x, negated in the channels whose scale is negative. a, b and errors are those of `affine`.
        """
        return self._affine(x, train, False, batch_statistics, rising=True)[:3]

    @nn.compact
    def _affine(
        self, x: jax.Array, train: bool, with_mean: bool, statistics: Statistics, rising: bool
    ) -> tuple[Any, ...]:
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

        groups, count = self.groups(x)
        mean, var, *per_example = statistics(x, groups, with_mean)

        if not self.is_initializing():
            unbiased = var * (count / (count - 1))
            running_mean.value = self._update(running_mean.value, sign * mean)
            running_var.value = self._update(running_var.value, unbiased)

        a = sign * scale * jax.lax.rsqrt(var + self.epsilon)
        return x, a, bias - a * mean, per_example[0] if with_mean else None

    def groups(self, x: jax.Array) -> tuple[int, int]:
        """The groups of a batch x [N, H, W, C] in training, and the values of each in a channel. Raises as `affine`."""
        examples, height, width = x.shape[:3]
        group_size = self.group_size or examples
        if examples % group_size:
            raise ValueError(f"a batch of {examples} does not split into BatchNorm groups of {group_size}")
        count = group_size * height * width
        if count < 2:
            raise ValueError("BatchNorm needs more than one value per channel in training")
        return examples // group_size, count

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> the same shape, in `dtype`."""
        a, b, _ = self.affine(x, train)
        return scale_shift(x.astype(self.dtype), a, b)

    def _update(self, running: jax.Array, groups: jax.Array) -> jax.Array:
        return self.momentum * running + (1 - self.momentum) * jnp.mean(groups, axis=0)
