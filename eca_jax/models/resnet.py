"""ResNet with channel attention after each block's last BatchNorm, before the residual sum.

He et al., CVPR 2016 (the form with stride in the 3x3 convolution, as torchvision and the release have it), and
ECA-Net's models/eca_resnet.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import add_relu, compute_apart
from eca_jax.layers.attention import ECA, SE, ChannelGate, global_average_pool
from eca_jax.layers.conv import Conv, Dense
from eca_jax.layers.fold import conv_norm_gate, norm_relu_pool
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.registry import register

Layer = Callable[..., nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. `conv`, `norm` and `attention` are partials that make layers."""

    features: int
    stride: int
    conv: Layer
    norm: Layer
    attention: Callable[[], ChannelGate] | None = None
    fold: bool = True
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        apart = not (train or self.attention) and x.shape[-1] == self.features
        if apart:  # conv1 and the sum read x, the sum of the block before, which would be computed again here
            x = compute_apart(x)
        y = self.conv(self.features, 3, self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train))
        if apart and self.features > 64:  # conv1 would run inside conv2, which pays in stage 1 only
            y = compute_apart(y)
        conv, norm = self.conv(self.features, 3, name="conv2"), self.norm(name="bn2")
        gate = self.attention and self.attention()
        y = conv_norm_gate(y, conv, norm, gate, train=train, fold=self.fold)
        return add_relu(y, shortcut(x, self.features, self.stride, self.conv, self.norm, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last with four times the features. See `BasicBlock`."""

    features: int
    stride: int
    conv: Layer
    norm: Layer
    attention: Callable[[], ChannelGate] | None = None
    fold: bool = True
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = self.features * self.expansion
        y = nn.relu(self.norm(name="bn1")(self.conv(self.features, 1, name="conv1")(x), train))
        if self.attention and not train and x.shape[-1] == features:
            # The gate waits for all of conv2, so conv2 cannot run inside conv3 as it does in a plain network, and
            # conv1 would run inside conv2.
            y = compute_apart(y)
        y = self.conv(self.features, 3, self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train))
        conv, norm = self.conv(features, 1, name="conv3"), self.norm(name="bn3")
        gate = self.attention and self.attention()
        y = conv_norm_gate(y, conv, norm, gate, train=train, fold=self.fold)
        return add_relu(y, shortcut(x, features, self.stride, self.conv, self.norm, train))


def shortcut(x: jax.Array, features: int, stride: int, conv: Layer, norm: Layer, train: bool) -> jax.Array:
    """The block's input, projected by a 1x1 convolution where its shape differs from the block's output."""
    if stride == 1 and x.shape[-1] == features:
        return x
    return norm(name="downsample_bn")(conv(features, 1, stride, name="downsample_conv")(x), train)


class ResNet(nn.Module):
    """ResNet, and with `attention` its SE and ECA forms. NHWC images in, float32 logits out.

    Attributes:
      stage_sizes: blocks in each of the four stages.
      block: `BasicBlock` or `Bottleneck`.
      num_classes: 0 returns the pooled features, float32 [N, C].
      attention: makes the channel gate of a block; its name in the block comes with it.
      kernel_sizes: of ECA, one a stage, or "adaptive" for the paper's formula on each block's output channels.
      small_images: a 3x3 stem of stride 1 and no max-pool, for images of about 32 pixels.
      features_only: return the four stages' outputs (C2 to C5, strides 4 to 32) instead of logits.
      bn_group_size: examples that share BatchNorm statistics; None is the whole batch.
      fold: merge the gate into its neighbours (`eca_jax.layers.fold`); False runs it as a layer of its own.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    stage_sizes: tuple[int, int, int, int]
    block: type[nn.Module] = Bottleneck
    num_classes: int = 1000
    attention: Layer | None = None
    kernel_sizes: tuple[int, int, int, int] | Literal["adaptive"] | None = None
    small_images: bool = False
    features_only: bool = False
    bn_group_size: int | None = None
    fold: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, group_size=self.bn_group_size, dtype=self.dtype)

        x = x.astype(self.dtype)
        if self.small_images:
            x = nn.relu(norm(name="bn1")(conv(64, 3, 1, name="conv1")(x), train))
        else:
            x = norm_relu_pool(conv(64, 7, 2, name="conv1")(x), norm(name="bn1"), train)

        stages = []
        for stage, (blocks, attention) in enumerate(zip(self.stage_sizes, self._attentions(), strict=True)):
            for index in range(blocks):
                x = self.block(
                    features=64 * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    conv=conv,
                    norm=norm,
                    attention=attention,
                    fold=self.fold,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
            stages.append(x)
        if self.features_only:
            return tuple(stages)
        pooled = global_average_pool(x)
        return Dense(self.num_classes, name="fc")(pooled) if self.num_classes else pooled

    def _attentions(self) -> list[Layer | None]:
        """What makes the channel gate in each stage."""
        if self.kernel_sizes is None or self.kernel_sizes == "adaptive":
            return [self.attention] * len(self.stage_sizes)
        if getattr(self.attention, "func", None) is not ECA:
            raise ValueError("kernel_sizes belongs to networks with ECA")
        if len(self.kernel_sizes) != len(self.stage_sizes):
            raise ValueError(f"kernel_sizes takes one size a stage, got {self.kernel_sizes}")
        return [partial(self.attention, kernel_size=k) for k in self.kernel_sizes]


STAGES = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
# Set by hand for the released weights, one a stage; they follow no formula.
RELEASED_KERNEL_SIZES = {
    18: (3, 5, 7, 7),
    34: (3, 3, 5, 7),
    50: (3, 5, 5, 7),
    101: (3, 3, 5, 7),
    152: (3, 3, 5, 7),
}

for _depth, (_block, _sizes) in STAGES.items():
    _build = partial(ResNet, stage_sizes=_sizes, block=_block)
    _eca = partial(_build, attention=partial(ECA, name="eca"), kernel_sizes=RELEASED_KERNEL_SIZES[_depth])
    register(f"resnet{_depth}", _build, weights_format="torchvision")
    register(f"eca_resnet{_depth}", _eca, weights_format="ecanet")
    register(f"se_resnet{_depth}", partial(_build, attention=partial(SE, name="se")), weights_format="ecanet")
