"""MobileNetV2 (Sandler et al., CVPR 2018), and with ECA after each projection (ECA-Net's eca_mobilenetv2.py)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.attention import ECA, SE, ChannelGate, global_average_pool, round_channels
from eca_jax.layers.conv import Conv, Dense
from eca_jax.layers.fold import conv_norm_gate
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.registry import register

Layer = Callable[..., nn.Module]

# Table 2 of the MobileNetV2 paper: expansion, channels, blocks, stride of the first.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The last block before each further halving of the resolution, and the last of all: strides 4, 8, 16 and 32.
FEATURE_BLOCKS = (3, 6, 13, 17)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; a residual where shapes allow."""

    features: int
    stride: int
    expansion: int
    conv: Layer
    norm: Layer
    attention: Callable[[], ChannelGate] | None = None
    fold: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        hidden = x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = self.conv(hidden, 1, name="expand_conv")(y)
            y = nn.relu6(self.norm(name="expand_bn")(y, train))
        y = self.conv(hidden, 3, self.stride, groups=hidden, name="depthwise_conv")(y)
        y = nn.relu6(self.norm(name="depthwise_bn")(y, train))
        conv, norm = self.conv(self.features, 1, name="project_conv"), self.norm(name="project_bn")
        gate = self.attention and self.attention()
        y = conv_norm_gate(y, conv, norm, gate, train=train, fold=self.fold)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV2(nn.Module):
    """MobileNetV2, and with `attention` its SE and ECA forms. NHWC images in, float32 logits out.

    Attributes:
      width_mult: scales every layer's channels, rounded to multiples of 8.
      dropout: rate before the classifier (rng stream "dropout").
      kernel_sizes: of ECA, one for each of the 17 blocks, or "adaptive" for the paper's formula; None is the
        release's rule, 1 where the block's output has fewer than 96 channels and 3 elsewhere.
      small_images: the stem has stride 1, for images of about 32 pixels.
      features_only: return the outputs at strides 4, 8, 16 and 32 (24, 32, 96 and 320 channels) instead of logits.
      num_classes, attention, bn_group_size, fold, dtype: as in `eca_jax.models.resnet.ResNet`.
    """

    num_classes: int = 1000
    width_mult: float = 1.0
    dropout: float = 0.2
    attention: Layer | None = None
    kernel_sizes: tuple[int, ...] | Literal["adaptive"] | None = None
    small_images: bool = False
    features_only: bool = False
    bn_group_size: int | None = None
    fold: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, group_size=self.bn_group_size, dtype=self.dtype)

        x = conv(round_channels(32 * self.width_mult), 3, 1 if self.small_images else 2, name="features_0_conv")(
            x.astype(self.dtype)
        )
        x = nn.relu6(norm(name="features_0_bn")(x, train))
        taps = []
        blocks = [(t, c, s if i == 0 else 1) for t, c, n, s in STAGES for i in range(n)]
        self._check_kernel_sizes(len(blocks))
        for index, (expansion, channels, stride) in enumerate(blocks, start=1):
            features = round_channels(channels * self.width_mult)
            x = InvertedResidual(
                features=features,
                stride=stride,
                expansion=expansion,
                conv=conv,
                norm=norm,
                attention=self._attention(index, features),
                fold=self.fold,
                name=f"features_{index}",
            )(x, train)
            if index in FEATURE_BLOCKS:
                taps.append(x)
        if self.features_only:
            return tuple(taps)
        x = conv(round_channels(1280 * max(1.0, self.width_mult)), 1, name="features_18_conv")(x)
        x = nn.relu6(norm(name="features_18_bn")(x, train))
        pooled = global_average_pool(x)
        if not self.num_classes:
            return pooled
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        init = {"kernel_init": nn.initializers.normal(0.01), "bias_init": nn.initializers.zeros}
        return Dense(self.num_classes, **init, name="classifier")(pooled)

    def _attention(self, index: int, features: int) -> Layer | None:
        """What makes the channel gate of block `index`, the first being 1."""
        if getattr(self.attention, "func", None) is not ECA or self.kernel_sizes == "adaptive":
            return self.attention
        if self.kernel_sizes is None:
            return partial(self.attention, kernel_size=1 if features < 96 else 3)
        return partial(self.attention, kernel_size=self.kernel_sizes[index - 1])

    def _check_kernel_sizes(self, blocks: int) -> None:
        if self.kernel_sizes is None:
            return
        if getattr(self.attention, "func", None) is not ECA:
            raise ValueError("kernel_sizes belongs to networks with ECA")
        if self.kernel_sizes != "adaptive" and len(self.kernel_sizes) != blocks:
            raise ValueError(f"kernel_sizes takes one size for each of the {blocks} blocks, got {self.kernel_sizes}")


register("mobilenet_v2", MobileNetV2, weights_format="torchvision")
register(
    "eca_mobilenet_v2",
    partial(MobileNetV2, attention=partial(ECA, name="eca"), dropout=0.25),
    weights_format="ecanet",
)
register(
    "se_mobilenet_v2",
    partial(MobileNetV2, attention=partial(SE, reduction=8, name="se"), dropout=0.25),
    weights_format="ecanet",
)
