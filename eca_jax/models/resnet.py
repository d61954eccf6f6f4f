"""ResNet with channel attention after each block's last BatchNorm, before the residual sum.

He et al., CVPR 2016 (the form with stride in the 3x3 convolution, as torchvision and the release have it), ECA-Net's
models/eca_resnet.py, and as data what timm varies: He et al., "Bag of Tricks for Image Classification", CVPR 2019 (the
"D" form), Xie et al., CVPR 2017 (ResNeXt), and pruned widths. timm's networks are in `eca_jax.models.timm_resnet`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
from flax import linen as nn

from eca_jax.kernels import add_relu, compute_apart
from eca_jax.layers.attention import global_average_pool
from eca_jax.layers.conv import Conv, Dense, Layer
from eca_jax.layers.fold import conv_norm_gate, norm_relu_pool
from eca_jax.layers.norm import BatchNorm
from eca_jax.layers.pooling import halving_average_pool
from eca_jax.models.naming import CBAM_OFFICIAL, RESNET, SE_SEQUENTIAL, TIMM, Naming
from eca_jax.models.network import BatchNormNetwork
from eca_jax.models.registry import register

# A stage: its output channels, and for each of its blocks the widths of the convolutions before the last.
Stage = tuple[int, tuple[tuple[int, ...], ...]]


class Block(nn.Module):
    """What both kinds of block have in common. [N, H, W, C] -> [N, H / stride, W / stride, features[-1]].

    Called with `kept` [N], the branch is multiplied by it (stochastic depth).

    Attributes:
      features: of its convolutions, one after another.
      groups: of the 3x3 convolution between two of 1x1.
      average_shortcut: halve the shortcut by an average before its 1x1 convolution, and not by that one's stride.
      shortcut_names: of the shortcut's convolution and BatchNorm.
      zero_init: the last BatchNorm's scale starts from zero, and the block from its shortcut.
      conv, norm, attention: what makes the layers; None for no attention.
      spatial: what makes the layer in place of a bottleneck's 3x3 convolution, where that is another one.
      unit: what makes a layer on the block's output, where there is one.
      fold: see `ResNet`.
    """

    features: tuple[int, ...]
    stride: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    attention: Layer | None = None
    spatial: Layer | None = None
    unit: Layer | None = None
    groups: int = 1
    average_shortcut: bool = False
    shortcut_names: tuple[str, str] = ("downsample_conv", "downsample_bn")
    zero_init: bool = False
    fold: bool = True

    # Output channels over those of the first convolution of a regular block, and the convolutions before the last.
    expansion: ClassVar[int]
    inner: ClassVar[int]

    def _last(self, y: jax.Array, kernel_size: int, train: bool, kept: jax.Array | None) -> jax.Array:
        """The last convolution with its BatchNorm and the attention, times `kept`."""
        number = len(self.features)
        conv = self.conv(self.features[-1], kernel_size, name=f"conv{number}")
        zero = {"scale_init": nn.initializers.zeros} if self.zero_init else {}
        norm = self.norm(name=f"bn{number}", **zero)
        gate = self.attention and self.attention()
        return conv_norm_gate(y, conv, norm, gate, train=train, fold=self.fold, kept=kept)

    def _sum(self, y: jax.Array, x: jax.Array, train: bool) -> jax.Array:
        """The block's output: the sum of the branch `y` and the shortcut from the block's input `x`, and the unit."""
        y = add_relu(y, self._shortcut(x, train))
        return self.unit()(y, train) if self.unit else y

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        """The block's input, projected by a 1x1 convolution where its shape differs from the block's output."""
        stride, features = self.stride, self.features[-1]
        if stride == 1 and x.shape[-1] == features:
            return x
        if self.average_shortcut:
            x = halving_average_pool(x) if stride == 2 else x
            stride = 1
        conv, norm = self.shortcut_names
        projection = self.conv(features, 1, stride, name=conv)
        return conv_norm_gate(x, projection, self.norm(name=norm), None, train=train, fold=self.fold)


class BasicBlock(Block):
    """Two 3x3 convolutions. See `Block`."""

    expansion = 1
    inner = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kept: jax.Array | None = None) -> jax.Array:
        first, last = self.features
        apart = not (train or self.attention) and x.shape[-1] == last
        if apart:  # conv1 and the sum read x, the sum of the block before, which would be computed again here
            x = compute_apart(x)
        y = self.conv(first, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        if apart and last > 64:  # conv1 would run inside conv2, which pays in stage 1 only
            y = compute_apart(y)
        return self._sum(self._last(y, 3, train, kept), x, train)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, the last with four times the features in a regular block. See `Block`."""

    expansion = 4
    inner = 2
    stride_first: ClassVar[bool] = False  # the stride is the first convolution's, and not the 3x3 one's

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kept: jax.Array | None = None) -> jax.Array:
        first, second, last = self.features
        strides = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = nn.relu(self.norm(name="bn1")(self.conv(first, 1, strides[0], name="conv1")(x), train))
        if self.attention and not train and x.shape[-1] == last:
            # The gate waits for all of conv2, so conv2 cannot run inside conv3 as it does in a plain network, and
            # conv1 would run inside conv2.
            y = compute_apart(y)
        if self.spatial:
            y = self.spatial(features=second, stride=strides[1])(y, train)
        else:
            y = self.conv(second, 3, strides[1], groups=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        return self._sum(self._last(y, 1, train, kept), x, train)


class StrideFirst(Bottleneck):
    """He et al.'s own form ("v1", Caffe's): fewer operations by 6%, and less accurate. See `Block`."""

    stride_first = True


class ResNet(BatchNormNetwork):
    """ResNet, and with `attention` its SE and ECA forms. NHWC images in, float32 logits out.

    Attributes, beside those of `BatchNormNetwork`:
      stage_sizes: blocks in each of the four stages.
      block: `BasicBlock`, `Bottleneck` or `StrideFirst`.
      groups, base_width: groups of a bottleneck's 3x3 convolution, and channels in each where a stage of 64 has one
        group (ResNeXt's "32x4d").
      widths: output channels and inner widths of every block, for a network that is not regular; see `Stage`.
      stem: widths of its 3x3 convolutions, the first of stride 2; a single width is one 7x7 convolution.
      small_images: a 3x3 stem of stride 1 and no max-pool, for images of about 32 pixels.
      average_shortcut, shortcut_names, zero_init: see `Block`.
      attention_blocks: those of each stage that have the attention, from 0, or from the end where negative; None is all
        of a stage, or of all stages.
      last_stride: of the last stage; 1 keeps its maps at those of the stage before.
      rule: of ECA's kernel size in each stage where `kernel_sizes` is None; None is the paper's formula.
      fold: merge a `ChannelGate` into its neighbours (`eca_jax.layers.fold`); False runs it as a layer of its own.
    """

    stage_sizes: tuple[int, int, int, int]
    block: type[Block] = Bottleneck
    groups: int = 1
    base_width: int = 64
    widths: tuple[Stage, Stage, Stage, Stage] | None = None
    stem: tuple[int, ...] = (64,)
    small_images: bool = False
    average_shortcut: bool = False
    shortcut_names: tuple[str, str] = ("downsample_conv", "downsample_bn")
    zero_init: bool = False
    attention_blocks: tuple[tuple[int, ...] | None, ...] | None = None
    last_stride: int = 2
    rule: tuple[int, ...] | None = None
    fold: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        conv, norm = partial(Conv, dtype=self.dtype), self._norm()
        x = self._stem(self._images(x), conv, norm, train)
        outputs = []
        places: dict[str, str] = {"branch": "attention", "after": "unit"}
        if issubclass(self.block, Bottleneck):
            places["conv"] = "spatial"
        attentions = self._attentions(self.rule or (None,) * 4, places=tuple(places), fast=self.fold)
        place = places[self.attention_spec.place] if self.attention_spec else "attention"
        kept = iter(self._kept(x, sum(self.stage_sizes), train))
        for stage, ((channels, blocks), attention) in enumerate(zip(self._stages(), attentions, strict=True)):
            attended = self._attended(stage, len(blocks))
            for index, inner in enumerate(blocks):
                layer: dict[str, Any] = {place: attention if index in attended else None}
                x = self.block(
                    features=(*inner, channels),
                    stride=(self.last_stride if stage == 3 else 2) if stage and not index else 1,
                    conv=conv,
                    norm=norm,
                    **layer,
                    groups=self.groups,
                    average_shortcut=self.average_shortcut,
                    shortcut_names=self.shortcut_names,
                    zero_init=self.zero_init,
                    fold=self.fold,
                    name=f"layer{stage + 1}_{index}",
                )(x, train, next(kept))
            outputs.append(x)
        if self.features_only:
            return tuple(outputs)
        pooled = global_average_pool(x)
        if not self.num_classes:
            return pooled
        undropped = self._undropped(x, train)
        return Dense(self.num_classes, name="fc")(pooled if undropped is None else pooled * undropped)

    def _stem(self, x: jax.Array, conv: Layer, norm: Callable[..., BatchNorm], train: bool) -> jax.Array:
        *first, last = self.stem
        stride = 1 if self.small_images else 2
        # Several convolutions are timm's Sequential: convolution, BatchNorm and ReLU, over and over, and the last.
        for index, width in enumerate(first):
            x = conv(width, 3, 1 if index else stride, name=f"conv1_{3 * index}")(x)
            x = nn.relu(norm(name=f"conv1_{3 * index + 1}")(x, train))
        if first:
            x = conv(last, 3, name=f"conv1_{3 * len(first)}")(x)
        else:
            x = conv(last, 3 if self.small_images else 7, stride, name="conv1")(x)
        if self.small_images:
            return nn.relu(norm(name="bn1")(x, train))
        return norm_relu_pool(x, norm(name="bn1"), train)

    def _attended(self, stage: int, depth: int) -> set[int]:
        """Which of a stage's blocks have the attention. What a shortened stage does not have has none."""
        if self.attention_blocks is not None and len(self.attention_blocks) != 4:
            raise ValueError(f"attention_blocks are of four stages, got {tuple(self.attention_blocks)}")
        chosen = self.attention_blocks[stage] if self.attention_blocks else None
        return {index % depth for index in (range(depth) if chosen is None else chosen) if -depth <= index < depth}

    def _stages(self) -> tuple[Stage, ...]:
        """Output channels and inner widths of every block."""
        if self.widths is not None:
            if (depths := tuple(len(blocks) for _, blocks in self.widths)) != tuple(self.stage_sizes):
                raise ValueError(f"widths are of {depths} blocks a stage, and stage_sizes={tuple(self.stage_sizes)}")
            return self.widths
        if self.groups > 1 and self.block is BasicBlock:
            raise ValueError(f"groups={self.groups} belongs to networks of bottlenecks")
        stages = []
        for stage, depth in enumerate(self.stage_sizes):
            channels = 64 * 2**stage
            inner = (channels * self.base_width // 64 * self.groups,) * self.block.inner
            stages.append((channels * self.block.expansion, (inner,) * depth))
        return tuple(stages)


# Blocks of the paper's networks, by the number of layers.
DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
    200: (Bottleneck, (3, 24, 36, 3)),  # among the others of Table 4, without attention
}
# Set by hand for the released weights, one a stage; they follow no formula.
RELEASED_KERNEL_SIZES = {
    18: (3, 5, 7, 7),
    34: (3, 3, 5, 7),
    50: (3, 5, 5, 7),
    101: (3, 3, 5, 7),
    152: (3, 3, 5, 7),
}
STAGES = ("layer1", "layer2", "layer3", "layer4")
BLOCKS = r"layer(\d+)[._](\d+)[./]"
NAMING = Naming(
    {"torchvision": RESNET, "ecanet": (*CBAM_OFFICIAL, *RESNET, *SE_SEQUENTIAL), "timm": TIMM},
    classifier="fc",
    place=r"layer\d+",
    stages=STAGES,
    blocks=BLOCKS,
    stem="conv1",
)

_register = partial(register, naming=NAMING)
for _depth, (_block, _sizes) in DEPTHS.items():
    _build = partial(ResNet, stage_sizes=_sizes, block=_block, rule=RELEASED_KERNEL_SIZES.get(_depth))
    _register(f"resnet{_depth}", _build, weights_format="ecanet" if _depth == 200 else "torchvision")
    for _attention in ("eca", "se", "cbam") if _depth in RELEASED_KERNEL_SIZES else ():
        _register(f"{_attention}_resnet{_depth}", partial(_build, attention=_attention), weights_format="ecanet")

# Xie et al., CVPR 2017. torchvision has these, and of 101 layers one that is twice as wide.
for _name, _depth, _width in (("50_32x4d", 50, 4), ("101_32x4d", 101, 4), ("101_32x8d", 101, 8)):
    _build = partial(ResNet, stage_sizes=DEPTHS[_depth][1], groups=32, base_width=_width)
    _register(f"resnext{_name}", _build, weights_format="ecanet" if _name == "101_32x4d" else "torchvision")
    for _attention in ("eca", "se") if _width == 4 else ():
        _register(f"{_attention}_resnext{_name}", partial(_build, attention=_attention), weights_format="ecanet")

# The rivals of Table 3, each in its authors' places; their tensors have our names in PyTorch too.
_rival = partial(ResNet, stage_sizes=DEPTHS[50][1])
_from_conv3 = {"attention_blocks": ((), None, None, None)}
_register("gc_resnet50", partial(_rival, attention="gc", **_from_conv3), weights_format="ecanet")
# GSoP-Net1, as released: after each stage's last block, and a last stage at the resolution of the one before.
_last = {"attention_blocks": ((-1,),) * 4, "last_stride": 1}
_register("gsop_resnet50", partial(_rival, attention="gsop", **_last), weights_format="ecanet")
# Five units, two in conv3 and three in conv4; between which blocks the paper does not say.
_five = {"attention_blocks": ((), (1, 3), (1, 3, 5), ())}
_register("a2_resnet50", partial(_rival, attention="a2", **_five), weights_format="ecanet")
for _depth in (50, 101):
    _build = partial(_rival, stage_sizes=DEPTHS[_depth][1], attention="aa", **_from_conv3)
    _register(f"aa_resnet{_depth}", _build, weights_format="ecanet")
