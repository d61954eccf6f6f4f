"""What every detector here has in common: a backbone by name, a pyramid, and images of several sizes on a canvas."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.attention import AttentionSpec
from eca_jax.layers.fpn import FPN
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.detection.canvas import Canvas, valid_area
from eca_jax.models.detection.rules import Rules, rules
from eca_jax.models.registry import create_model

Detections = dict[str, jax.Array]
# Objects of N images, at most G each: `boxes` float32 [N, G, 4] in pixels of the canvas, `labels` int32 [N, G] from 1,
# `valid` bool [N, G]; for masks also `masks` [N, G, R, C] of 0 and 1, of the area `mask_boxes` [N, G, 4] (where that
# is missing, of the box).
Truths = dict[str, jax.Array]


class Detector(nn.Module, kw_only=True):
    """Base of the detectors. `detector(images, sizes)` -> detections.

    Images are float [N, H, W, 3], normalised, each in the upper left corner of its array ("canvas") of multiples of
    32; what lies beyond an image is ignored. Every image is detected as if it were alone. BatchNorm runs by its
    statistics, but for `batch_statistics`.

    Detections, best first, padded to a fixed number K: `boxes` float32 [N, K, 4] in pixels of the canvas, `scores`
    [N, K], `labels` int32 [N, K], `valid` bool [N, K], and of Mask R-CNN `masks` float32 [N, K, 28, 28], probabilities
    within the box.

    Attributes:
      backbone: name of a model that has `features_only`.
      backbone_options: of the backbone, as for `create_model`.
      kernel_sizes: of a backbone with ECA; None is the backbone's own.
      num_classes: with the background, class 0.
      width: channels of the pyramid and of the heads on it; the box head's hidden layers have four times as many.
      batch_statistics: whether BatchNorm takes the batch's statistics in training, as torchvision's does without
        pretrained weights. They are those of the whole canvas: for images that fill it.
      rules: "torchvision", "torchvision_v1" or "mmdet1"; see `Rules`.
      rule_options: fields of `Rules` in place of those of `rules`, such as {"box_samples": 64}.
      dtype: of the computation; parameters, boxes and scores are float32.
    """

    backbone: str = "resnet50"
    backbone_options: Mapping[str, Any] | None = None
    kernel_sizes: tuple[int, ...] | str | None = None
    num_classes: int = 91
    width: int = 256
    batch_statistics: bool = False
    rules: str = "torchvision"
    rule_options: Mapping[str, Any] | None = None
    dtype: Any = jnp.float32

    @property
    def preset(self) -> Rules:
        """The numbers that `rules` names, with `rule_options`. Raises ValueError for an unknown name of either."""
        try:
            return dataclasses.replace(rules(self.rules), **(self.rule_options or {}))
        except TypeError as error:
            raise ValueError(f"rule_options: {error}") from None

    @property
    def attention_spec(self) -> AttentionSpec | None:
        """The backbone's attention; None for none."""
        return getattr(build_backbone(self), "attention_spec", None)

    def setup(self) -> None:
        self.body = build_backbone(self)
        self.fpn = self._pyramid()

    def _pyramid(self) -> FPN:
        raise NotImplementedError

    def __call__(self, images: jax.Array, sizes: jax.Array | None = None, train: bool = False) -> Detections:
        """Detections of normalised images [N, H, W, 3], see the class; `train` changes nothing. Raises as `pyramid`."""
        return self.everything(images) if self.is_initializing() else self.detections(images, sizes)

    def detections(self, images: jax.Array, sizes: jax.Array | None) -> Detections:
        raise NotImplementedError

    def everything(self, images: jax.Array) -> Detections:
        """Runs every module once, which is all that initialising needs; what it returns means nothing."""
        raise NotImplementedError

    def classes_of(self, module: tuple[str, ...], outputs: int) -> int | None:
        """`num_classes`, if it shows in the number of outputs of the module of that path; else None."""
        raise NotImplementedError

    # The backbone's stages that the pyramid is built on, from the one of this index (strides 4, 8, 16, 32).
    first_stage = 0

    def pyramid(
        self, images: jax.Array, sizes: jax.Array | None = None, train: bool = False
    ) -> tuple[tuple[jax.Array, ...], Canvas]:
        """The pyramid's levels [N, h, w, width], and the canvas.

        Args:
          images: [N, H, W, 3].
          sizes: int32 [N, 2], each image's height and width; None where the images fill the array.
          train: whether this is of a training step, see `batch_statistics`.

        Raises:
          ValueError: H or W is no multiple of 32.
        """
        count, height, width, _ = images.shape
        if sizes is None:
            sizes = jnp.full((count, 2), jnp.array([height, width], jnp.int32))
        canvas = Canvas((height, width), sizes)
        images = jnp.where(canvas.inside(images, sizes), images, jnp.zeros((), images.dtype))
        with valid_area(canvas):
            return self.fpn(self.body(images, train=train and self.batch_statistics)[self.first_stage :]), canvas


def build_backbone(detector: Detector) -> nn.Module:
    """The detector's backbone, which returns its stages. Raises as `create_model` does."""
    options = dict(detector.backbone_options or {})
    if detector.kernel_sizes is not None:
        options["kernel_sizes"] = detector.kernel_sizes
    if detector.preset.epsilon != BatchNorm.epsilon:
        options["bn_epsilon"] = detector.preset.epsilon
    return create_model(detector.backbone, features_only=True, dtype=detector.dtype, **options)
