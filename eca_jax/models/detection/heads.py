"""What reads the pyramid: the RPN's and RetinaNet's heads on every level, the box and the mask head on crops."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.conv import Conv, Dense, kaiming_fan_out, torch_uniform

_narrow = partial(Conv, use_bias=True, kernel_init=nn.initializers.normal(0.01), bias_init=nn.initializers.zeros)
# He initialisation and zero biases, of the mask head.
_wide = partial(Conv, use_bias=True, bias_init=nn.initializers.zeros)
# A level's outputs: one row for each anchor, in the order (y, x, anchor).
Rows = list[jax.Array]


def _rows(x: jax.Array, columns: int) -> jax.Array:
    """[N, H, W, A * columns] -> float32 [N, H * W * A, columns]."""
    return x.reshape(x.shape[0], -1, columns).astype(jnp.float32)


class RPNHead(nn.Module):
    """Objectness and deltas of the anchors: a 3x3 convolution, then two of 1x1, the same on every level."""

    anchors: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> tuple[Rows, Rows]:
        """Levels [N, H, W, C] -> for each level logits float32 [N, H * W * A] and deltas [N, H * W * A, 4]."""
        conv = _narrow(levels[0].shape[-1], 3, dtype=self.dtype, name="conv_0")
        logits = _narrow(self.anchors, 1, dtype=self.dtype, name="cls_logits")
        deltas = _narrow(4 * self.anchors, 1, dtype=self.dtype, name="bbox_pred")
        hidden = [nn.relu(conv(level)) for level in levels]
        return [_rows(logits(x), 1)[..., 0] for x in hidden], [_rows(deltas(x), 4) for x in hidden]


class RetinaHead(nn.Module):
    """Class logits and deltas of the anchors: two towers of four 3x3 convolutions, the same on every level."""

    columns: int
    anchors: int = 9
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array]) -> tuple[Rows, Rows]:
        """Levels [N, H, W, C] -> for each level float32 [N, H * W * A, columns] and [N, H * W * A, 4]."""
        rare = nn.initializers.constant(-math.log(99.0))  # an object in a hundred anchors
        logits = self._tower(levels, "cls_conv", self.columns, "cls_logits", rare)
        return logits, self._tower(levels, "reg_conv", 4, "bbox_reg", nn.initializers.zeros)

    def _tower(self, levels: Sequence[jax.Array], name: str, columns: int, output: str, bias_init: Any) -> Rows:
        conv = partial(_narrow, dtype=self.dtype)
        tower = [conv(levels[0].shape[-1], 3, name=f"{name}_{i}") for i in range(4)]
        last = conv(self.anchors * columns, 3, bias_init=bias_init, name=output)
        rows = []
        for x in levels:
            for layer in tower:
                x = nn.relu(layer(x))
            rows.append(_rows(last(x), columns))
        return rows


class CropDense(nn.Module):
    """A dense layer on crops [..., S, S, C] -> [..., features]; its kernel is `crop_kernel` (S, S, C, features)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, crops: jax.Array) -> jax.Array:
        shape = (*crops.shape[-3:], self.features)
        inputs = math.prod(shape[:3])

        def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return torch_uniform(inputs)(key, shape, dtype)

        kernel = self.param("crop_kernel", init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", torch_uniform(inputs), (self.features,), jnp.float32)
        flat = crops.astype(self.dtype).reshape(*crops.shape[:-3], inputs)
        return flat @ kernel.reshape(inputs, self.features) + bias.astype(self.dtype)


class BoxHead(nn.Module):
    """Two hidden layers of 1024 on 7x7 crops: [N, K, 7, 7, C] -> [N, K, 1024]."""

    features: int = 1024
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, crops: jax.Array) -> jax.Array:
        x = nn.relu(CropDense(self.features, self.dtype, name="fc6")(crops))
        return nn.relu(Dense(self.features, dtype=self.dtype, name="fc7")(x))


class BoxPredictor(nn.Module):
    """Class logits float32 [N, K, classes] and every class's deltas float32 [N, K, classes, 4]."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = Dense(self.num_classes, dtype=self.dtype, name="cls_score")(x).astype(jnp.float32)
        deltas = Dense(4 * self.num_classes, dtype=self.dtype, name="bbox_pred")(x).astype(jnp.float32)
        return logits, deltas.reshape(*logits.shape, 4)


class MaskHead(nn.Module):
    """Four 3x3 convolutions on crops [M, 14, 14, C]."""

    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, crops: jax.Array) -> jax.Array:
        x = crops
        for i in range(4):
            x = nn.relu(_wide(self.features, 3, dtype=self.dtype, name=f"conv_{i}")(x))
        return x


class MaskPredictor(nn.Module):
    """A mask of each crop for one class: [M, 14, 14, C], labels int [M] -> logits float32 [M, 28, 28].

    Only the class's own kernel is applied; all 91 would cost a TPU three times as much.
    """

    num_classes: int
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, crops: jax.Array, labels: jax.Array) -> jax.Array:
        x = nn.relu(Upsample(self.features, self.dtype, name="deconv")(crops))
        return ClassLogits(self.num_classes, self.dtype, name="logits")(x, labels)


class Upsample(nn.Module):
    """Transposed 2x2 convolution of stride 2: [M, H, W, C] -> [M, 2H, 2W, features].

    Its kernel is `upsample_kernel` (2, 2, C, features). Windows do not overlap, so it is a dense layer to the four
    cells that each cell becomes.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count, height, width, channels = x.shape
        shape = (2, 2, channels, self.features)
        kernel = self.param("upsample_kernel", kaiming_fan_out, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        y = jnp.einsum("nhwc,abcf->nhawbf", x.astype(self.dtype), kernel) + bias
        return y.reshape(count, 2 * height, 2 * width, self.features)


class ClassLogits(nn.Module):
    """A 1x1 convolution to one logit a class, of which each example asks for one: [M, H, W, C] -> float32 [M, H, W]."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kaiming_fan_out, (1, 1, x.shape[-1], self.num_classes), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        own = kernel[0, 0].T[labels].astype(self.dtype)
        y = jnp.einsum("nhwc,nc->nhw", x.astype(self.dtype), own, preferred_element_type=jnp.float32)
        return y + bias[labels][:, None, None]
