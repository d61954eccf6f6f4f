"""MobileNetV2 (Sandler et al., CVPR 2018), and with ECA after each projection (ECA-Net's eca_mobilenetv2.py)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from eca_jax.layers.attention import SE, global_average_pool, round_channels
from eca_jax.layers.conv import Conv, Dense, Layer
from eca_jax.layers.fold import conv_norm_gate
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.naming import SE_SEQUENTIAL, Naming, Rule
from eca_jax.models.network import BatchNormNetwork
from eca_jax.models.registry import register

# Table 2 of the MobileNetV2 paper: expansion, channels, blocks, stride of the first.
INVERTED_RESIDUALS = (
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
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    attention: Layer | None = None
    fold: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kept: jax.Array | None = None) -> jax.Array:
        hidden = x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = self.conv(hidden, 1, name="expand_conv")(y)
            y = nn.relu6(self.norm(name="expand_bn")(y, train))
        y = self.conv(hidden, 3, self.stride, groups=hidden, name="depthwise_conv")(y)
        y = nn.relu6(self.norm(name="depthwise_bn")(y, train))
        conv, norm = self.conv(self.features, 1, name="project_conv"), self.norm(name="project_bn")
        gate = self.attention and self.attention()
        residual = self.stride == 1 and x.shape[-1] == self.features
        y = conv_norm_gate(y, conv, norm, gate, train=train, fold=self.fold, kept=kept if residual else None)
        return x + y if residual else y


class MobileNetV2(BatchNormNetwork):
    """MobileNetV2, and with `attention` its SE and ECA forms. NHWC images in, float32 logits out.

    `features_only` returns 24, 32, 96 and 320 channels. `kernel_sizes` is one for each of the 17 blocks; None is the
    release's rule, 1 where the block's output has fewer than 96 channels and 3 elsewhere.

    Attributes, beside those of `BatchNormNetwork`:
      width_mult: scales every layer's channels, rounded to multiples of 8.
      small_images: the stem has stride 1, for images of about 32 pixels.
      fold: as in `eca_jax.models.resnet.ResNet`.
    """

    width_mult: float = 1.0
    dropout: float = 0.2
    small_images: bool = False
    fold: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        conv, norm = partial(Conv, dtype=self.dtype), self._norm()
        x = conv(round_channels(32 * self.width_mult), 3, 1 if self.small_images else 2, name="features_0_conv")(
            self._images(x)
        )
        x = nn.relu6(norm(name="features_0_bn")(x, train))
        taps = []
        blocks = [
            (t, round_channels(c * self.width_mult), s if i == 0 else 1)
            for t, c, n, s in INVERTED_RESIDUALS
            for i in range(n)
        ]
        rule = [1 if features < 96 else 3 for _, features, _ in blocks]
        attentions = self._attentions(rule, each=f"for each of the {len(blocks)} blocks", fast=self.fold)
        kept = self._kept(x, len(blocks), train)
        for index, ((expansion, features, stride), attention) in enumerate(zip(blocks, attentions, strict=True), 1):
            x = InvertedResidual(
                features=features,
                stride=stride,
                expansion=expansion,
                conv=conv,
                norm=norm,
                attention=attention,
                fold=self.fold,
                name=f"features_{index}",
            )(x, train, kept[index - 1])
            if index in FEATURE_BLOCKS:
                taps.append(x)
        if self.features_only:
            return tuple(taps)
        x = conv(round_channels(1280 * max(1.0, self.width_mult)), 1, name="features_18_conv")(x)
        x = nn.relu6(norm(name="features_18_bn")(x, train))
        pooled = global_average_pool(x)
        if not self.num_classes:
            return pooled
        undropped = self._undropped(x, train)
        pooled = pooled if undropped is None else pooled * undropped
        init: dict[str, Any] = {"kernel_init": nn.initializers.normal(0.01), "bias_init": nn.initializers.zeros}
        return Dense(self.num_classes, **init, name="classifier")(pooled)


# An inverted residual is a Sequential; the first does not expand, so that what follows moves up one place. What else
# is in a block is its attention.
_NAMES = (
    Rule(r"^features_(0|18)_conv$", r"features/\1/0"),
    Rule(r"^features_(0|18)_bn$", r"features/\1/1"),
    Rule(r"^features_1/depthwise_conv$", r"features/1/conv/0/0"),
    Rule(r"^features_1/depthwise_bn$", r"features/1/conv/0/1"),
    Rule(r"^features_1/project_conv$", r"features/1/conv/1"),
    Rule(r"^features_1/project_bn$", r"features/1/conv/2"),
    Rule(r"^features_1/[^/]+", r"features/1/conv/3"),
    Rule(r"^features_(\d+)/expand_conv$", r"features/\1/conv/0/0"),
    Rule(r"^features_(\d+)/expand_bn$", r"features/\1/conv/0/1"),
    Rule(r"^features_(\d+)/depthwise_conv$", r"features/\1/conv/1/0"),
    Rule(r"^features_(\d+)/depthwise_bn$", r"features/\1/conv/1/1"),
    Rule(r"^features_(\d+)/project_conv$", r"features/\1/conv/2"),
    Rule(r"^features_(\d+)/project_bn$", r"features/\1/conv/3"),
    Rule(r"^features_(\d+)/[^/]+", r"features/\1/conv/4"),
    Rule(r"^classifier$", r"classifier/1"),
)
_STEM = {"features_0_conv": 32}
_BLOCKS = [channels for _, channels, count, _ in INVERTED_RESIDUALS for _ in range(count)]
_CHANNELS = _STEM | {f"features_{number}/project_conv": channels for number, channels in enumerate(_BLOCKS, 1)}


def width_of(channels: Mapping[str, int]) -> float | None:
    """The `width_mult` that gives convolutions these output channels, the roundest of several; None for none."""

    def roundness(hundredths: int) -> tuple[int, int]:
        return next(place for place, step in enumerate((25, 10, 5, 1)) if hundredths % step == 0), hundredths

    for hundredths in sorted(range(5, 401), key=roundness):
        width = hundredths / 100
        if all(round_channels(base * width) == channels.get(path) for path, base in _CHANNELS.items()):
            return width
    return None


NAMING = Naming(
    {"torchvision": _NAMES, "ecanet": (*_NAMES, *SE_SEQUENTIAL)},
    classifier="classifier",
    place=r"features_\d+",
    stages=("features.3", "features.6", "features.13", "features.17"),
    width=width_of,
)

register("mobilenet_v2", MobileNetV2, weights_format="torchvision", naming=NAMING)
_with_attention = partial(MobileNetV2, dropout=0.25)
register("eca_mobilenet_v2", partial(_with_attention, attention="eca"), weights_format="ecanet", naming=NAMING)
_se = partial(SE, reduction=8)
register("se_mobilenet_v2", partial(_with_attention, attention=_se), weights_format="ecanet", naming=NAMING)
