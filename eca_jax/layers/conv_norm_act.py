"""Convolution, BatchNorm and activation, the unit that most of timm's networks are built from."""

from collections.abc import Callable

import jax
from flax import linen as nn

from eca_jax.layers.conv import Layer


class ConvNormAct(nn.Module):
    """act(bn(conv(x))): [N, H, W, C] -> [N, H', W', features].

    Attributes:
      conv, norm: partials that make the two layers; their names are `conv` and `bn`.
      act: elementwise; None leaves the normalised result.
    """

    features: int
    conv: Layer
    norm: Layer
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    act: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.conv(self.features, self.kernel_size, self.stride, groups=self.groups, name="conv")(x)
        x = self.norm(name="bn")(x, train)
        return self.act(x) if self.act else x
