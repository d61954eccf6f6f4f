"""Feature pyramid networks (Lin et al., CVPR 2017)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.conv import Conv

# torchvision's and mmdetection's `kaiming_uniform(a=1)`: U(-√(3 / fan_in), √(3 / fan_in)).
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class FPN(nn.Module):
    """Maps of one width at the strides of a backbone's last stages, and coarser ones.

    A 1x1 convolution a stage, sums from the top down with nearest upsampling, a 3x3 convolution a level, then the
    coarser levels. All of height and width that halve exactly, as those of images of a multiple of 32 do.

    Attributes:
      features: channels of every level.
      extra: "pool" adds every second cell of the last level; "p5" and "c5" add two levels by 3x3 convolutions of
        stride 2, the first of the last level or of the backbone's last stage.
      relu: whether a ReLU stands between those two.
    """

    features: int = 256
    extra: str = "pool"
    relu: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stages: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """Stages [N, H, W, C], finest first -> levels [N, H, W, features], finest first."""
        if self.extra not in ("pool", "p5", "c5"):
            raise ValueError(f"extra must be pool, p5 or c5, not {self.extra!r}")
        conv = partial(
            Conv,
            self.features,
            use_bias=True,
            kernel_init=kaiming_uniform,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
        )
        inner = [conv(kernel_size=1, name=f"inner_{i}")(stage) for i, stage in enumerate(stages)]
        for i in reversed(range(len(inner) - 1)):
            inner[i] = inner[i] + doubled(inner[i + 1])
        levels = [conv(kernel_size=3, name=f"layer_{i}")(x) for i, x in enumerate(inner)]
        if self.extra == "pool":
            return (*levels, levels[-1][:, ::2, ::2])
        p6 = conv(kernel_size=3, stride=2, name="p6")(stages[-1] if self.extra == "c5" else levels[-1])
        p7 = conv(kernel_size=3, stride=2, name="p7")(nn.relu(p6) if self.relu else p6)
        return (*levels, p6, p7)


def doubled(x: jax.Array) -> jax.Array:
    """Nearest upsampling by two: [N, H, W, C] -> [N, 2H, 2W, C]."""
    count, height, width, channels = x.shape
    spread = jnp.broadcast_to(x[:, :, None, :, None, :], (count, height, 2, width, 2, channels))
    return spread.reshape(count, 2 * height, 2 * width, channels)
