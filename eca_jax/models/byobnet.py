"""timm's "bring your own blocks" networks with ECA: a tiered stem, SiLU, and ECA inside the bottleneck.

timm's models/byobnet.py and byoanet.py. ECA rescales the 3x3 convolution's activated output and so stands before the
last convolution, not after its BatchNorm; the last blocks of two of the networks have self-attention instead of both.
"""

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from eca_jax.kernels import max_pool
from eca_jax.layers.conv import Conv, Layer
from eca_jax.layers.conv_norm_act import ConvNormAct
from eca_jax.layers.fold import dropped
from eca_jax.layers.self_attention import BottleneckAttention, HaloAttention
from eca_jax.models.network import BatchNormNetwork, ClassifierHead
from eca_jax.models.timm_common import kernel_size_rule, register_timm

STEM_CHANNELS = (24, 32, 64)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with attention before the last, or self-attention for 3x3 and attention.

    Attributes:
      features: output channels; the inner layers have a quarter.
      group_size: channels a group of the 3x3 convolution; None is one group.
      layer, norm: partials that make convolution, BatchNorm and activation, and BatchNorm alone.
      attention: makes the attention; None for none.
      self_attention: makes the layer that takes the place of both.
    """

    features: int
    stride: int
    group_size: int | None
    layer: Layer
    norm: Layer
    attention: Layer | None
    self_attention: Layer | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kept: jax.Array | None = None) -> jax.Array:
        inner, shortcut = self.features // 4, x
        if self.stride != 1 or x.shape[-1] != self.features:
            shortcut = self.layer(self.features, stride=self.stride, act=None, name="shortcut")(x, train)
        y = self.layer(inner, name="conv1_1x1")(x, train)
        if self.self_attention:
            y = self.self_attention(stride=self.stride, name="self_attn")(y)
            y = nn.silu(self.norm(name="post_attn")(y, train))
        else:
            groups = inner // self.group_size if self.group_size else 1
            y = self.layer(inner, kernel_size=3, stride=self.stride, groups=groups, name="conv2_kxk")(y, train)
            y = self.attention()(y, train) if self.attention else y
        zero_norm = partial(self.norm, scale_init=nn.initializers.zeros)
        y = self.layer(self.features, act=None, norm=zero_norm, name="conv3_1x1")(y, train)
        return nn.silu(dropped(y, kept) + shortcut)


class Stem(nn.Module):
    """Three 3x3 convolutions and a max-pool, or the last of stride 2: image to features of stride 4."""

    pool: bool
    layer: Layer

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        strides = (2, 1, 1 if self.pool else 2)
        for index, (width, stride) in enumerate(zip(STEM_CHANNELS, strides, strict=True), start=1):
            x = self.layer(width, kernel_size=3, stride=stride, name=f"conv{index}")(x, train)
        return max_pool(x, window=3, stride=2, padding=1) if self.pool else x


class ByobNet(BatchNormNetwork):
    """Bottleneck network with attention inside its blocks. NHWC images in, float32 logits out.

    `features_only` returns what comes before the last convolution. `kernel_sizes` is one a stage, unused where a stage
    has only self-attention; None is timm's rule.

    Attributes, beside those of `BatchNormNetwork`:
      stage_sizes: blocks in each of the four stages.
      channels: output channels of each stage.
      group_size: see `Bottleneck`.
      stem_pool: see `Stem`.
      final_features: of a last 1x1 convolution; None has none.
      self_attention: `BottleneckAttention`, `HaloAttention` or None, in the last `self_attention_blocks` blocks.
      image_size: pixels, the only size of image that a network with `BottleneckAttention` takes.
    """

    stage_sizes: tuple[int, int, int, int] = (2, 2, 2, 2)
    channels: tuple[int, int, int, int] = (256, 512, 1024, 2048)
    group_size: int | None = None
    stem_pool: bool = True
    final_features: int | None = None
    self_attention: type[nn.Module] | None = None
    self_attention_blocks: int = 0
    image_size: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        norm = self._norm()
        layer = partial(ConvNormAct, conv=partial(_conv, dtype=self.dtype), norm=norm, act=nn.silu)

        x = Stem(self.stem_pool, layer, name="stem")(self._images(x), train)
        outputs = []
        blocks_left = sum(self.stage_sizes)
        # The attention of a block sees its inner channels.
        attentions = self._attentions(kernel_size_rule([c // 4 for c in self.channels]))
        kept = iter(self._kept(x, sum(self.stage_sizes), train))
        for stage, (blocks, attention) in enumerate(zip(self.stage_sizes, attentions, strict=True)):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                attends = blocks_left <= self.self_attention_blocks
                x = Bottleneck(
                    features=self.channels[stage],
                    stride=stride,
                    group_size=self.group_size,
                    layer=layer,
                    norm=norm,
                    attention=attention,
                    self_attention=self._self_attention(stage, stride) if attends else None,
                    name=f"stages_{stage}_{index}",
                )(x, train, next(kept))
                blocks_left -= 1
            outputs.append(x)
        if self.features_only:
            return tuple(outputs)
        if self.final_features:
            x = layer(self.final_features, name="final_conv")(x, train)
        head = ClassifierHead(self.num_classes, nn.initializers.normal(0.01), name="head")
        return head(x, self._undropped(x, train))

    def _self_attention(self, stage: int, stride: int) -> Layer:
        """What makes the self-attention of a block of `stage` whose input has yet to be halved by `stride`."""
        if self.self_attention is BottleneckAttention:
            feature_size = self.image_size // (4 * 2**stage // stride)
            return partial(BottleneckAttention, feature_size=feature_size, dtype=self.dtype)
        assert self.self_attention is not None, "only stages with self-attention ask"
        return partial(self.self_attention, dtype=self.dtype)


def _conv(features: int, kernel_size: int, stride: int, *, groups: int, dtype: Any, name: str) -> Conv:
    """A convolution with this family's initialisation, whose fan-out is that of one group."""
    init = nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")
    return Conv(features, kernel_size, stride, groups=groups, kernel_init=init, dtype=dtype, name=name)


_eca = partial(ByobNet, attention="eca", attention_name="attn")
_self_attention = partial(_eca, group_size=16, self_attention_blocks=3)

register_timm(
    "eca_resnet33ts",
    partial(
        _eca,
        stage_sizes=(2, 3, 3, 2),
        channels=(256, 512, 1536, 1536),
        stem_pool=False,
        final_features=1280,
    ),
    image_size=256,
    crop_pct=0.9,
)
register_timm("eca_resnext26ts", partial(_eca, group_size=32), image_size=256, crop_pct=0.9)
register_timm(
    "eca_botnext26ts_256", partial(_self_attention, self_attention=BottleneckAttention), image_size=256, crop_pct=0.95
)
register_timm("eca_halonext26ts", partial(_self_attention, self_attention=HaloAttention), image_size=256, crop_pct=0.94)
