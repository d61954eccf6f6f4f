"""Networks without normalisation: NFNet's light forms and NF-ResNet, with ECA.

Brock et al., "Characterizing signal propagation...", ICLR 2021, and "High-performance large-scale image recognition
without normalization", ICML 2021; timm's models/nfnet.py for the `eca_` forms. There are no batch statistics: kernels
are standardised instead, and every block scales its input by the standard deviation that it is expected to have.
"""

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from eca_jax.kernels import max_pool
from eca_jax.layers.attention import round_channels
from eca_jax.layers.conv import Layer
from eca_jax.layers.fold import dropped
from eca_jax.layers.pooling import halving_average_pool
from eca_jax.layers.std_conv import ACTIVATION_GAIN, ScaledStdConv
from eca_jax.models.network import ClassifierHead, Network
from eca_jax.models.timm_common import kernel_size_rule, register_timm

# α, which scales each residual branch, and so what a block adds to the variance: α².
BRANCH_SCALE = 0.2
# A sigmoid gate halves its input on average; the paper's correction.
ATTENTION_GAIN = 2.0
ACTIVATIONS = {"relu": nn.relu, "silu": nn.silu}


class NormFreeBlock(nn.Module):
    """x + α · 2 · attention(convolutions(act(x) · β)), pre-activated, the shortcut projected where shapes differ.

    Attributes:
      features: output channels; the inner convolutions have a quarter.
      beta: 1 / the expected standard deviation of x.
      group_size: channels a group of the 3x3 convolutions; None is one group.
      extra_conv: a second 3x3 convolution.
      conv, attention: partials that make layers; `act` is elementwise.
    """

    features: int
    stride: int
    beta: float
    group_size: int | None
    extra_conv: bool
    conv: Layer
    attention: Layer | None
    act: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kept: jax.Array | None = None) -> jax.Array:
        inner = round_channels(self.features / 4)
        groups = inner // self.group_size if self.group_size else 1
        y = self.act(x) * self.beta
        shortcut = self._shortcut(x, y)
        y = self.conv(inner, 1, name="conv1")(y)
        y = self.conv(inner, 3, self.stride, groups=groups, name="conv2")(self.act(y))
        if self.extra_conv:
            y = self.conv(inner, 3, groups=groups, name="conv2b")(self.act(y))
        y = self.conv(self.features, 1, gain_init=nn.initializers.zeros, name="conv3")(self.act(y))
        if self.attention:
            y = ATTENTION_GAIN * self.attention()(y, train)
        return BRANCH_SCALE * dropped(y, kept) + shortcut

    def _shortcut(self, x: jax.Array, activated: jax.Array) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == self.features:
            return x
        pooled = halving_average_pool(activated) if self.stride == 2 else activated
        return self.conv(self.features, 1, name="downsample_conv")(pooled)


class NormFreeNet(Network):
    """Norm-free network with attention after each block's last convolution. NHWC images in, float32 logits out.

    `features_only` returns what comes before activation and last convolution. `kernel_sizes` is one a stage; None is
    timm's rule.

    Attributes, beside those of `Network`:
      stage_sizes: blocks in each of the four stages.
      channels: output channels of each stage.
      stem: widths of the stem's convolutions. One is a 7x7 of stride 2 and a max-pool; four are 3x3, the first and
        the last of stride 2.
      activation: "relu" or "silu"; its gain goes into the kernels that follow it.
      group_size, extra_conv: see `NormFreeBlock`.
      final_features: of a last 1x1 convolution; None has none.
    """

    stage_sizes: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    stem: tuple[int, ...]
    activation: str
    group_size: int | None = None
    extra_conv: bool = False
    final_features: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        act = ACTIVATIONS[self.activation]
        conv = partial(ScaledStdConv, gamma=ACTIVATION_GAIN[self.activation], dtype=self.dtype)

        x = Stem(self.stem, conv, act, name="stem")(self._images(x))
        outputs = []
        variance = 1.0
        attentions = self._attentions(kernel_size_rule(self.channels))
        kept = iter(self._kept(x, sum(self.stage_sizes), train))
        for stage, (blocks, attention) in enumerate(zip(self.stage_sizes, attentions, strict=True)):
            for index in range(blocks):
                x = NormFreeBlock(
                    features=self.channels[stage],
                    stride=2 if stage > 0 and index == 0 else 1,
                    beta=variance**-0.5,
                    group_size=self.group_size,
                    extra_conv=self.extra_conv,
                    conv=conv,
                    attention=attention,
                    act=act,
                    name=f"stages_{stage}_{index}",
                )(x, train, next(kept))
                # A stage's first block starts its shortcut from normalised input, so the variance starts anew.
                variance = (1.0 if index == 0 else variance) + BRANCH_SCALE**2
            outputs.append(x)
        if self.features_only:
            return tuple(outputs)
        if self.final_features:
            x = conv(self.final_features, 1, name="final_conv")(x)
        x = act(x)
        head = ClassifierHead(self.num_classes, nn.initializers.normal(0.01), name="head")
        return head(x, self._undropped(x, train))


class Stem(nn.Module):
    """Image to features of stride 4, not activated; see `NormFreeNet.stem`."""

    widths: tuple[int, ...]
    conv: Layer
    act: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if len(self.widths) == 1:
            x = self.conv(self.widths[0], 7, 2, name="conv")(x)
            return max_pool(x, window=3, stride=2, padding=1)
        last = len(self.widths)
        for index, width in enumerate(self.widths, start=1):
            x = self.conv(width, 3, 2 if index in (1, last) else 1, name=f"conv{index}")(x)
            x = x if index == last else self.act(x)
        return x


_eca = partial(NormFreeNet, attention="eca", attention_name="attn_last")
_light = partial(
    _eca,
    channels=(256, 512, 1536, 1536),
    stem=(16, 32, 64, 128),
    activation="silu",
    group_size=64,
    extra_conv=True,
    final_features=3072,
)
_resnet = partial(_eca, channels=(256, 512, 1024, 2048), stem=(64,), activation="relu")
_register = partial(register_timm, crop_pct=0.9)

_register("eca_nfnet_l0", partial(_light, stage_sizes=(1, 2, 6, 3), final_features=2304))
_register("eca_nfnet_l1", partial(_light, stage_sizes=(2, 4, 12, 6)), image_size=256)
_register("eca_nfnet_l2", partial(_light, stage_sizes=(3, 6, 18, 9)), image_size=320)
_register("eca_nfnet_l3", partial(_light, stage_sizes=(4, 8, 24, 12)), image_size=352)
_register("nf_ecaresnet26", partial(_resnet, stage_sizes=(2, 2, 2, 2)))
_register("nf_ecaresnet50", partial(_resnet, stage_sizes=(3, 4, 6, 3)))
_register("nf_ecaresnet101", partial(_resnet, stage_sizes=(3, 4, 23, 3)))
