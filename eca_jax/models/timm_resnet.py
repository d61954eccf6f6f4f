"""timm's ResNets: deep stems, average-pooled shortcuts, grouped convolutions, and pruned widths.

He et al., "Bag of Tricks for Image Classification", CVPR 2019 (the "D" form), and timm's models/resnet.py. The
release's and torchvision's networks are in `eca_jax.models.resnet`. A network is data here: the widths of every
convolution of every block, and the stem.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import max_pool
from eca_jax.layers.attention import ECA, SE, ChannelGate, global_average_pool
from eca_jax.layers.conv import Conv, Dense, kaiming_fan_out
from eca_jax.layers.fold import conv_norm_gate
from eca_jax.layers.norm import BatchNorm
from eca_jax.layers.pooling import halving_average_pool
from eca_jax.models.timm_common import KernelSizes, Layer, register_timm, stage_attentions

# Widths of a block's first two convolutions, for each block; and a stage, which is those and its output channels.
Blocks = tuple[tuple[int, int], ...]
Stage = tuple[int, Blocks]

STAGE_CHANNELS = (256, 512, 1024, 2048)


def regular(*depths: int, groups: int = 1, base_width: int = 64) -> tuple[Stage, ...]:
    """Stages of these depths, the two inner convolutions `base_width * groups / 64` of a quarter of the output."""
    inner = (channels // 4 * base_width // 64 * groups for channels in STAGE_CHANNELS)
    return tuple((c, ((w, w),) * n) for c, w, n in zip(STAGE_CHANNELS, inner, depths, strict=True))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, attention, residual sum, ReLU.

    Attributes:
      features: of the three convolutions.
      groups: of the 3x3 convolution.
      average_shortcut: halve the shortcut by an average before its 1x1 convolution, and not by that one's stride.
      conv, norm, attention: partials that make layers.
    """

    features: tuple[int, int, int]
    stride: int
    groups: int
    average_shortcut: bool
    conv: Layer
    norm: Layer
    attention: Callable[[], ChannelGate] | None = None
    fold: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        first, second, last = self.features
        y = nn.relu(self.norm(name="bn1")(self.conv(first, 1, name="conv1")(x), train))
        y = self.conv(second, 3, self.stride, groups=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        conv, norm = self.conv(last, 1, name="conv3"), self.norm(name="bn3", scale_init=nn.initializers.zeros)
        gate = self.attention and self.attention()
        y = conv_norm_gate(y, conv, norm, gate, train=train, fold=self.fold)
        return nn.relu(y + self._shortcut(x, train))

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        stride, features = self.stride, self.features[-1]
        if stride == 1 and x.shape[-1] == features:
            return x
        place = 0  # in timm's Sequential of pooling, convolution and BatchNorm
        if self.average_shortcut:
            x = halving_average_pool(x) if stride == 2 else x
            stride, place = 1, 1
        x = self.conv(features, 1, stride, name=f"downsample_{place}")(x)
        return self.norm(name=f"downsample_{place + 1}")(x, train)


class TimmResNet(nn.Module):
    """ResNet as timm varies it. NHWC images in, float32 logits out.

    Attributes:
      stages: output channels and the blocks' inner widths, for each of the four stages.
      groups: of the blocks' 3x3 convolutions.
      stem: widths of its 3x3 convolutions, the first of stride 2; a single width is one 7x7 convolution.
      average_shortcut: see `Bottleneck`.
      kernel_sizes: of ECA, one a stage; None is timm's rule on the channels before pruning, (5, 5, 5, 7); "adaptive"
        is the paper's formula on the block's output channels.
      num_classes, attention, features_only, bn_group_size, fold, dtype: as in `eca_jax.models.resnet.ResNet`.
    """

    stages: tuple[Stage, ...]
    num_classes: int = 1000
    groups: int = 1
    stem: tuple[int, ...] = (64,)
    average_shortcut: bool = False
    attention: Layer | None = None
    kernel_sizes: KernelSizes = None
    features_only: bool = False
    bn_group_size: int | None = None
    fold: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, group_size=self.bn_group_size, dtype=self.dtype)

        x = self._stem(x.astype(self.dtype), conv, norm, train)
        x = max_pool(x, window=3, stride=2, padding=1)
        outputs = []
        attentions = stage_attentions(self.attention, self.kernel_sizes, STAGE_CHANNELS)
        for stage, ((channels, blocks), attention) in enumerate(zip(self.stages, attentions, strict=True)):
            for index, inner in enumerate(blocks):
                x = Bottleneck(
                    features=(*inner, channels),
                    stride=2 if stage > 0 and index == 0 else 1,
                    groups=self.groups,
                    average_shortcut=self.average_shortcut,
                    conv=conv,
                    norm=norm,
                    attention=attention,
                    fold=self.fold,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
            outputs.append(x)
        if self.features_only:
            return tuple(outputs)
        pooled = global_average_pool(x)
        return Dense(self.num_classes, name="fc")(pooled) if self.num_classes else pooled

    def _stem(self, x: jax.Array, conv: Layer, norm: Layer, train: bool) -> jax.Array:
        *first, last = self.stem
        if not first:
            x = conv(last, 7, 2, name="conv1")(x)
        else:
            # timm's Sequential: convolution, BatchNorm and ReLU, over and over, and the last convolution.
            for index, width in enumerate(first):
                x = conv(width, 3, 1 if index else 2, name=f"conv1_{3 * index}")(x)
                x = nn.relu(norm(name=f"conv1_{3 * index + 1}")(x, train))
            x = conv(last, 3, name=f"conv1_{3 * len(first)}")(x)
        return nn.relu(norm(name="bn1")(x, train))


# What knapsack pruning with inner distillation left of the 50 and 101 layers (Aflalo et al., 2020).
PRUNED_50 = (
    (19, ((47, 18), (52, 22), (64, 35))),
    (171, ((85, 37), (107, 80), (120, 85), (125, 87))),
    (818, ((198, 126), (255, 232), (256, 233), (253, 235), (256, 225), (256, 239))),
    (2022, ((492, 237), (512, 500), (512, 490))),
)
# fmt: off
PRUNED_101 = (
    (26, ((45, 25), (53, 20), (60, 27))),
    (142, ((81, 24), (93, 49), (102, 54), (122, 78))),
    (278, (
        (101, 25), (239, 160), (234, 156), (250, 176), (253, 191), (251, 175), (230, 128), (244, 154),
        (244, 159), (238, 97), (244, 149), (253, 181), (245, 119), (255, 216), (256, 201), (253, 149),
        (254, 141), (256, 190), (256, 217), (255, 156), (256, 155), (256, 232), (256, 214),
    )),
    (2042, ((499, 289), (512, 512), (512, 502))),
)
# fmt: on

_eca = partial(TimmResNet, attention=partial(ECA, name="se"), average_shortcut=True)
_d = partial(_eca, stem=(32, 32, 64))
_t = partial(_eca, stem=(24, 32, 64))
_next = partial(_t, groups=32)

register_timm("ecaresnet26t", partial(_t, stages=regular(2, 2, 2, 2)), image_size=256)
register_timm("ecaresnet50t", partial(_t, stages=regular(3, 4, 6, 3)), image_size=256)
register_timm("ecaresnet50d", partial(_d, stages=regular(3, 4, 6, 3)))
register_timm("ecaresnet50d_pruned", partial(_d, stages=PRUNED_50))
register_timm("ecaresnet101d", partial(_d, stages=regular(3, 4, 23, 3)))
register_timm("ecaresnet101d_pruned", partial(_d, stages=PRUNED_101))
register_timm("ecaresnet200d", partial(_d, stages=regular(3, 24, 36, 3)), image_size=256, crop_pct=0.95)
register_timm("ecaresnet269d", partial(_d, stages=regular(3, 30, 48, 8)), image_size=320, crop_pct=0.95)
register_timm("ecaresnetlight", partial(_eca, stages=regular(1, 1, 11, 3)))
register_timm("ecaresnext26t_32x4d", partial(_next, stages=regular(2, 2, 2, 2, groups=32, base_width=4)))
# As timm has it now; its older releases gave this name the depths of the one above, and published no weights.
register_timm("ecaresnext50t_32x4d", partial(_next, stages=regular(3, 4, 6, 3, groups=32, base_width=4)))
register_timm("resnet50d", partial(_d, stages=regular(3, 4, 6, 3), attention=None))
_se = partial(SE, divisor=8, use_bias=True, kernel_init=kaiming_fan_out, name="se")
register_timm("seresnet50", partial(TimmResNet, stages=regular(3, 4, 6, 3), attention=_se), crop_pct=0.95)
