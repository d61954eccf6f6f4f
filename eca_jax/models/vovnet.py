"""VoVNet: blocks that concatenate all their layers once (Lee et al., 2019; version 2 in CenterMask, CVPR 2020).

With ECA in place of the squeeze-and-excitation of version 2, as timm's models/vovnet.py has it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.conv import Conv, Layer
from eca_jax.layers.conv_norm_act import ConvNormAct
from eca_jax.layers.fold import dropped
from eca_jax.layers.pooling import halving_max_pool
from eca_jax.models.network import BatchNormNetwork, ClassifierHead
from eca_jax.models.timm_common import kernel_size_rule, register_timm

# Output channels of the stages, and of the 3x3 convolutions in their blocks; the block has five of these.
STAGE_CHANNELS = (256, 512, 768, 1024)
INNER_CHANNELS = (128, 160, 192, 224)
LAYERS_PER_BLOCK = 5
STEM_CHANNELS = (64, 64, 128)


class OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions; a 1x1 convolution over the input and all their outputs; attention; a residual.

    Attributes:
      features: output channels.
      inner: channels of each 3x3 convolution.
      residual: add the input.
      layer: makes convolution, BatchNorm and activation.
      attention: makes the attention; None for none.
    """

    features: int
    inner: int
    residual: bool
    layer: Layer
    attention: Layer | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kept: jax.Array | None = None) -> jax.Array:
        outputs = [x]
        for index in range(LAYERS_PER_BLOCK):
            layer = self.layer(self.inner, kernel_size=3, name=f"conv_mid_{index}")
            outputs.append(layer(outputs[-1], train))
        y = self.layer(self.features, name="conv_concat")(jnp.concatenate(outputs, axis=-1), train)
        if self.attention:
            y = self.attention()(y, train)
        return x + dropped(y, kept) if self.residual else y


class VoVNet(BatchNormNetwork):
    """VoVNet with attention in each stage's last block. NHWC images in, float32 logits out.

    `kernel_sizes` is one a stage; None is timm's rule.

    Attributes, beside those of `BatchNormNetwork`:
      stage_sizes: blocks in each of the four stages.
    """

    stage_sizes: tuple[int, int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array | tuple[jax.Array, ...]:
        conv, norm = partial(Conv, dtype=self.dtype), self._norm()
        layer = partial(ConvNormAct, conv=conv, norm=norm, act=nn.relu)

        x = self._images(x)
        for index, (width, stride) in enumerate(zip(STEM_CHANNELS, (2, 1, 2), strict=True)):
            x = layer(width, kernel_size=3, stride=stride, name=f"stem_{index}")(x, train)
        outputs = []
        attentions = self._attentions(kernel_size_rule(STAGE_CHANNELS))
        kept = iter(self._kept(x, sum(self.stage_sizes), train))
        for stage, (blocks, attention) in enumerate(zip(self.stage_sizes, attentions, strict=True)):
            x = halving_max_pool(x) if stage > 0 else x
            for index in range(blocks):
                x = OneShotAggregation(
                    features=STAGE_CHANNELS[stage],
                    inner=INNER_CHANNELS[stage],
                    residual=index > 0,
                    layer=layer,
                    attention=attention if index == blocks - 1 else None,
                    name=f"stages_{stage}_blocks_{index}",
                )(x, train, next(kept))
            outputs.append(x)
        if self.features_only:
            return tuple(outputs)
        return ClassifierHead(self.num_classes, name="head")(x, self._undropped(x, train))


register_timm("eca_vovnet39b", partial(VoVNet, stage_sizes=(1, 1, 2, 2), attention="eca", attention_name="attn"))
