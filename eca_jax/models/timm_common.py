"""What timm's families share: its preprocessing, its rule for ECA's kernel size, its head."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
from flax import linen as nn

from eca_jax.layers.attention import ECA, eca_kernel_size, global_average_pool
from eca_jax.layers.conv import Dense, Initializer
from eca_jax.models.inputs import Preprocessing
from eca_jax.models.registry import register

Layer = Callable[..., nn.Module]
KernelSizes = tuple[int, int, int, int] | Literal["adaptive"] | None


def register_timm(name: str, build: Layer, *, image_size: int = 224, crop_pct: float = 0.875) -> None:
    """Registers a model under timm's name, with the preprocessing that timm gives its default weights.

    The sizes are timm's `input_size` and `crop_pct`, those of training; for many weights timm also lists a larger
    `test_input_size`, at which they score higher.
    """
    preprocessing = Preprocessing(image_size, crop_pct, interpolation="bicubic")
    register(name, build, weights_format="timm", preprocessing=preprocessing)


def stage_attentions(
    attention: Layer | None, kernel_sizes: KernelSizes, channels: tuple[int, int, int, int]
) -> list[Layer | None]:
    """What makes the channel gate in each of the four stages.

    Args:
      attention: makes a channel gate; None for no attention.
      kernel_sizes: of ECA, one a stage, or "adaptive" for the paper's formula on the channels that arrive. None is
        timm's rule, the paper's formula on `channels` and at least 3.
      channels: that the gate of each stage was designed for. A pruned network has fewer.

    Raises:
      ValueError: `kernel_sizes` is given to a network without ECA, or is not one a stage.
    """
    if getattr(attention, "func", None) is not ECA:
        if kernel_sizes is not None:
            raise ValueError("kernel_sizes belongs to networks with ECA")
        return [attention] * len(channels)
    if kernel_sizes == "adaptive":
        return [attention] * len(channels)
    if kernel_sizes is None:
        kernel_sizes = tuple(max(eca_kernel_size(c), 3) for c in channels)
    if len(kernel_sizes) != len(channels):
        raise ValueError(f"kernel_sizes takes one size a stage, got {kernel_sizes}")
    return [partial(attention, kernel_size=k) for k in kernel_sizes]


class ClassifierHead(nn.Module):
    """Features [N, H, W, C] -> float32 logits [N, num_classes], or the means [N, C] where there are no classes."""

    num_classes: int
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = global_average_pool(x)
        if not self.num_classes:
            return pooled
        zeros = nn.initializers.zeros
        return Dense(self.num_classes, kernel_init=self.kernel_init, bias_init=zeros, name="fc")(pooled)
