"""What channel attentions share: the pooled descriptor, and the split that lets a gate be folded."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn


def global_average_pool(x: jax.Array) -> jax.Array:
    """Mean over height and width, accumulated in float32: [N, H, W, C] -> float32 [N, C]."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


def round_channels(channels: float, divisor: int = 8, floor: float = 0.9) -> int:
    """Nearest multiple of `divisor`, at least `divisor`, and never below `floor` times the channels asked for.

    MobileNetV2's `_make_divisible`; `floor=0` leaves out the last rule.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < floor * channels else rounded


class ChannelGate(nn.Module, kw_only=True):
    """Base of every attention that sees only channel means: `layer(x) = x * gate(global_average_pool(x))`.

    Subclasses define `gate`: float32 [N, C] -> float32 [N, C]. It never sees the feature map, and that is what lets
    `eca_jax.layers.fold` merge it into a neighbouring BatchNorm or convolution whatever it computes.

    Attributes:
      fast: set by networks that fold their gates. A gate may then run in another form of the same function; by itself
        the layer is the definition.
    """

    fast: bool = False

    # The name of the submodule in a block, PyTorch's where there is an original.
    name_in_block: ClassVar[str] = "attention"
    # Where under it the parameter lies whose first axis is `kernel_size`; empty for a gate that has none.
    kernel_path: ClassVar[tuple[str, ...]] = ()

    def gate(self, pooled: jax.Array) -> jax.Array:
        raise NotImplementedError

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Rescales the channels of `x`: [N, H, W, C] -> the same shape and dtype. Nothing depends on `train`."""
        return x * self.gate(global_average_pool(x))[:, None, None, :].astype(x.dtype)
