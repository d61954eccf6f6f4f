"""The released networks as PyTorch modules: what `verify`, the benchmarks and the tests hold ours against.

Written after the paper and the released code's behaviour; the names of all parameters are the release's, so that
its checkpoints load with `strict=True`. The SE networks are the paper's comparison (bias-free dense layers), named
as in the code that the release descends from (moskomule/senet.pytorch). This module imports torch; import it late.
"""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from eca_jax.layers.attention import eca_kernel_size
from eca_jax.models import mobilenet_v2, resnet


class ECALayer(nn.Module):
    """[N, C, H, W] scaled by a gate that a 1-D convolution over channels computes from the global average."""

    def __init__(self, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.conv(x.mean((2, 3))[:, None, :]))
        return x * gate[:, 0, :, None, None]


class SELayer(nn.Module):
    """[N, C, H, W] scaled by a gate that two dense layers compute from the global average."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        down = nn.Linear(channels, channels // reduction, bias=False)
        up = nn.Linear(channels // reduction, channels, bias=False)
        self.fc = nn.Sequential(down, nn.ReLU(inplace=True), up, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class ChannelGate(nn.Module):
    """CBAM's first half: one MLP on the mean and on the maximum over the map."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        down, up = nn.Linear(channels, channels // reduction), nn.Linear(channels // reduction, channels)
        self.mlp = nn.Sequential(nn.Flatten(), down, nn.ReLU(), up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        return x * weights[:, :, None, None]


class SpatialGate(nn.Module):
    """CBAM's second half: a 7x7 convolution of the maximum and the mean over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential()
        self.spatial.add_module("conv", nn.Conv2d(2, 1, 7, padding=3, bias=False))
        self.spatial.add_module("bn", nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(pooled))


class CBAM(nn.Module):
    """Both, named as in the authors' code (Jongchan/attention-module)."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.ChannelGate, self.SpatialGate = ChannelGate(channels, reduction), SpatialGate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class Block(nn.Module):
    """A basic or a bottleneck block: convolutions (kernel size, channels, stride, groups), the last without activation.

    `attention` is the attribute's name ("eca", "se", "cbam") and the layer; it acts before the sum.
    """

    def __init__(self, channels: int, convs: list[tuple[int, int, int, int]], attention: tuple[str, nn.Module] | None):
        super().__init__()
        entering = channels
        for index, (kernel_size, features, stride, groups) in enumerate(convs, start=1):
            conv = nn.Conv2d(channels, features, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
            self.add_module(f"conv{index}", conv)
            self.add_module(f"bn{index}", nn.BatchNorm2d(features))
            channels = features
        self.depth, self.attention = len(convs), attention and attention[0]
        if attention:
            self.add_module(*attention)
        stride = math.prod(stride for _, _, stride, _ in convs)
        self.downsample = None
        if stride != 1 or entering != channels:
            conv = nn.Conv2d(entering, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for index in range(1, self.depth + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = y if index == self.depth else y.relu_()
        if self.attention:
            y = getattr(self, self.attention)(y)
        y += x if self.downsample is None else self.downsample(x)
        return y.relu_()


class ResNet(nn.Module):
    """`attention(stage, channels)` makes what `Block` takes, or None; `groups` of 4 and more channels are ResNeXt's."""

    def __init__(
        self,
        depth: int,
        num_classes: int,
        attention: Callable[[int, int], tuple[str, nn.Module] | None],
        groups: int = 1,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        block, stage_sizes = resnet.DEPTHS[depth]
        for stage, blocks in enumerate(stage_sizes):
            width, layers = 64 * 2**stage, []
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                if block is resnet.BasicBlock:
                    convs = [(3, width, stride, 1), (3, width, 1, 1)]
                else:
                    inner = width if groups == 1 else width // 16 * groups
                    convs = [(1, inner, 1, 1), (3, inner, stride, groups), (1, 4 * width, 1, 1)]
                layers.append(Block(channels, convs, attention(stage, convs[-1][1])))
                channels = convs[-1][1]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, attention; a sum where shapes allow. Everything lies in one Sequential, `conv`."""

    def __init__(self, channels: int, features: int, stride: int, expansion: int, attention: nn.Module | None):
        super().__init__()
        hidden = channels * expansion
        layers = [conv_bn_relu6(channels, hidden, 1)] if expansion != 1 else []
        layers += [conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden)]
        layers += [nn.Conv2d(hidden, features, 1, bias=False), nn.BatchNorm2d(features)]
        self.conv = nn.Sequential(*layers, *([attention] if attention else []))
        self.residual = stride == 1 and channels == features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def conv_bn_relu6(channels: int, features: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, features, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(features), nn.ReLU6(inplace=True))


class MobileNetV2(nn.Module):
    """`attention(block, channels)` makes the layer after each projection, blocks counted from 0, or None."""

    def __init__(self, num_classes: int, dropout: float, attention: Callable[[int, int], nn.Module | None]):
        super().__init__()
        features, channels = [conv_bn_relu6(3, 32, 3, stride=2)], 32
        for expansion, width, blocks, stride in mobilenet_v2.INVERTED_RESIDUALS:
            for index in range(blocks):
                layer = attention(len(features) - 1, width)
                features.append(InvertedResidual(channels, width, stride if not index else 1, expansion, layer))
                channels = width
        self.features = nn.Sequential(*features, conv_bn_relu6(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


# [attention_](resnet | resnext)DEPTH[_32x4d], or [attention_]mobilenet_v2.
_NAME = re.compile(r"(eca_|se_|cbam_|)(?:resnet(\d+)|resnext(50|101)_32x4d)|(eca_|se_|)mobilenet_v2")


def has(name: str) -> bool:
    """Whether `build` has a network of that name."""
    match = _NAME.fullmatch(name)
    return match is not None and (not match[2] or int(match[2]) in resnet.DEPTHS)


def build(name: str, *, num_classes: int = 1000, kernel_sizes: tuple[int, ...] | None = None) -> nn.Module:
    """The PyTorch network under the name of ours.

    `[eca_|se_|cbam_]resnet{18,34,50,101,152,200}`, `[eca_|se_|cbam_]resnext{50,101}_32x4d`, `[eca_|se_]mobilenet_v2`.

    Args:
      kernel_sizes: of ECA, one a stage for ResNets (default: those of the released weights; where there are none, the
        paper's formula), one a block for MobileNetV2 (default: the release's rule, 1 below 96 channels and 3 from
        there on).

    Raises:
      ValueError: no such network.
    """
    match = _NAME.fullmatch(name)
    if not match or not has(name):
        raise ValueError(f"there is no reference network {name!r}")
    if name.endswith("mobilenet_v2"):
        return MobileNetV2(num_classes, 0.25 if match[4] else 0.2, _block_attention(match[4], kernel_sizes))
    depth = int(match[2] or match[3])
    adaptive = tuple(eca_kernel_size(64 * 2**stage * resnet.DEPTHS[depth][0].expansion) for stage in range(4))
    released = None if match[3] else resnet.RELEASED_KERNEL_SIZES.get(depth)
    attention = _stage_attention(match[1], kernel_sizes or released or adaptive)
    return ResNet(depth, num_classes, attention, groups=32 if match[3] else 1)


def _stage_attention(kind: str, kernel_sizes: Sequence[int]) -> Callable[[int, int], tuple[str, nn.Module] | None]:
    return {
        "eca_": lambda stage, channels: ("eca", ECALayer(kernel_sizes[stage])),
        "se_": lambda stage, channels: ("se", SELayer(channels, 16)),
        "cbam_": lambda stage, channels: ("cbam", CBAM(channels, 16)),
        "": lambda stage, channels: None,
    }[kind]


def _block_attention(kind: str, kernel_sizes: Sequence[int] | None) -> Callable[[int, int], nn.Module | None]:
    def eca(block: int, channels: int) -> nn.Module:
        return ECALayer(kernel_sizes[block] if kernel_sizes else 1 if channels < 96 else 3)

    return {"eca_": eca, "se_": lambda block, channels: SELayer(channels, 8), "": lambda block, channels: None}[kind]
