"""Faster R-CNN (Ren et al., NIPS 2015) and Mask R-CNN (He et al., ICCV 2017) on a feature pyramid."""

import jax
import jax.numpy as jnp

from eca_jax.layers.fpn import FPN
from eca_jax.models.detection import boxes as box_ops
from eca_jax.models.detection.anchors import level_anchors, rpn_cells
from eca_jax.models.detection.canvas import Canvas, valid_area
from eca_jax.models.detection.detector import Detections, Detector, Truths
from eca_jax.models.detection.heads import BoxHead, BoxPredictor, MaskHead, MaskPredictor, RPNHead
from eca_jax.models.detection.nms import nms, suppress
from eca_jax.models.detection.rcnn_losses import Sampled, box_losses, mask_loss, rpn_losses, sample_proposals
from eca_jax.models.detection.roi_align import roi_align

STRIDES = (4, 8, 16, 32, 64)
# Regions are read from the levels of these strides; P6 is the RPN's alone.
ROI_STRIDES = STRIDES[:4]
Levels = tuple[jax.Array, ...]


class FasterRCNN(Detector):
    """Two stages: proposals of the RPN, then class and box of a crop of each. See `Detector`.

    Attributes:
      candidates: pairs of proposal and class that go into the last suppression. A proposal can pass the least score
        for at most 19 classes; `dropped` [N] of the detections counts what found no place.
    """

    candidates: int = 2000

    def setup(self) -> None:
        super().setup()
        self.rpn = RPNHead(dtype=self.dtype)
        self.box_head = BoxHead(4 * self.width, dtype=self.dtype)
        self.box_predictor = BoxPredictor(self.num_classes, dtype=self.dtype)

    def _pyramid(self) -> FPN:
        return FPN(self.width, extra="pool", dtype=self.dtype)

    def classes_of(self, module: tuple[str, ...], outputs: int) -> int | None:
        return outputs if module == ("box_predictor", "cls_score") else None

    def rpn_outputs(self, levels: Levels, canvas: Canvas) -> tuple[list[jax.Array], list[jax.Array]]:
        """For each level objectness logits float32 [N, A] and deltas [N, A, 4]."""
        with valid_area(canvas):
            return self.rpn(levels)

    def anchors(self, canvas: Canvas) -> list[tuple[jax.Array, jax.Array]]:
        """For each level boxes [N, A, 4] and which of them are their image's, bool [N, A]."""
        cells, padded = rpn_cells(STRIDES, self.preset), canvas.padded
        return [
            level_anchors(cell, stride, canvas.shape, padded, self.preset)
            for cell, stride in zip(cells, STRIDES, strict=True)
        ]

    def proposals(
        self, logits: list[jax.Array], deltas: list[jax.Array], canvas: Canvas, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Boxes [N, P, 4] of the RPN, best first, and which of them there are, bool [N, P]. They carry no gradient."""
        rules = self.preset
        before, after = rules.rpn_before, rules.rpn_after
        if train:
            before, after = rules.rpn_before_train, rules.rpn_after_train

        most = min(before, max(logit.shape[1] for logit in logits))

        def of_level(logit: jax.Array, delta: jax.Array, anchor: jax.Array, inside: jax.Array) -> tuple:
            """Scores [most] and boxes [most, 4] of a level's best anchors, -inf where there are none."""
            best, chosen = jax.lax.top_k(jnp.where(inside, logit, -jnp.inf), min(before, len(logit)))
            box = box_ops.decode(delta[chosen], anchor[chosen], offset=rules.offset, clamp_below=rules.clamp_below)
            missing = most - len(best)
            return jnp.pad(best, (0, missing), constant_values=-jnp.inf), jnp.pad(box, ((0, missing), (0, 0)))

        def one_image(image: tuple) -> tuple[jax.Array, jax.Array]:
            logits, deltas, anchors, size = image
            levels = [of_level(*level[:2], *level[2]) for level in zip(logits, deltas, anchors, strict=True)]
            score, box = (jnp.stack(values) for values in zip(*levels, strict=True))
            box = box_ops.clip(box, size, rules.offset)
            width, height = box_ops.sizes(box, rules.offset)
            valid = (score > -jnp.inf) & (width >= rules.rpn_size) & (height >= rules.rpn_size)
            kept = jax.vmap(lambda box, valid: suppress(box, valid, None, rules.rpn_nms, rules.offset))(box, valid)
            count = min(after, score.size)
            score, best = jax.lax.top_k(jnp.where(kept, score, -jnp.inf).reshape(-1), count)
            found = jnp.pad(score > -jnp.inf, (0, after - count))
            return jnp.where(found[:, None], box.reshape(-1, 4)[jnp.pad(best, (0, after - count))], 0.0), found

        return jax.lax.stop_gradient(jax.vmap(one_image)((logits, deltas, self.anchors(canvas), canvas.sizes)))

    def box_outputs(self, levels: Levels, canvas: Canvas, boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Class logits float32 [N, K, classes] and deltas [N, K, classes, 4] of boxes [N, K, 4]."""
        return self.box_predictor(self.box_head(self.crops(levels, canvas, boxes, 7)))

    def crops(self, levels: Levels, canvas: Canvas, boxes: jax.Array, output_size: int) -> jax.Array:
        """Crops [N, K, output_size, output_size, width] of boxes [N, K, 4]."""
        levels = levels[: len(ROI_STRIDES)]
        grids = [canvas.grid((level.shape[1], level.shape[2])) for level in levels]
        return roi_align(levels, grids, boxes, strides=ROI_STRIDES, output_size=output_size, rules=self.preset)

    def everything(self, images: jax.Array) -> Detections:
        levels, canvas = self.pyramid(images)
        logits, _ = self.rpn_outputs(levels, canvas)
        box = jnp.zeros((len(images), 1, 4))
        return {"logits": logits[0], "scores": self.box_outputs(levels, canvas, box)[0]}

    def detections(self, images: jax.Array, sizes: jax.Array | None) -> Detections:
        levels, canvas = self.pyramid(images, sizes)
        return self.detect(levels, canvas)

    def detect(self, levels: Levels, canvas: Canvas) -> Detections:
        """Detections from the pyramid."""
        boxes, valid = self.proposals(*self.rpn_outputs(levels, canvas), canvas)
        logits, deltas = self.box_outputs(levels, canvas, boxes)

        def one_image(image: tuple) -> Detections:
            return self._detections(*image)

        return jax.vmap(one_image)((logits, deltas, boxes, valid, canvas.sizes))

    def _detections(
        self, logits: jax.Array, deltas: jax.Array, boxes: jax.Array, valid: jax.Array, size: jax.Array
    ) -> Detections:
        rules = self.preset
        score = jax.nn.softmax(logits, axis=-1)[:, 1:]  # without the background
        decoded = box_ops.decode(
            deltas[:, 1:], boxes[:, None], rules.box_weights, offset=rules.offset, clamp_below=rules.clamp_below
        )
        decoded = box_ops.clip(decoded.reshape(-1, 4), size, rules.offset)
        width, height = box_ops.sizes(decoded, rules.offset)
        large = (width >= rules.box_size) & (height >= rules.box_size)
        passed = ((score > rules.score) & valid[:, None]).reshape(-1) & large
        count = min(self.candidates, passed.size)
        best, pair = jax.lax.top_k(jnp.where(passed, score.reshape(-1), -jnp.inf), count)
        label, box = pair % (self.num_classes - 1) + 1, decoded[pair]
        kept, found = nms(box, best, label, rules.nms, rules.detections, rules.offset)
        return {
            "boxes": jnp.where(found[:, None], box[kept], 0.0),
            "scores": jnp.where(found, best[kept], 0.0),
            "labels": jnp.where(found, label[kept], 0).astype(jnp.int32),
            "valid": found,
            "dropped": jnp.sum(passed) - jnp.sum(best > -jnp.inf),
        }

    def losses(
        self, images: jax.Array, sizes: jax.Array | None, truths: Truths, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """`loss_objectness`, `loss_rpn_box_reg`, `loss_classifier`, `loss_box_reg`; the loss is their sum.

        Args:
          images, sizes: as for the call.
          truths: see `Truths`.
          key: draws which anchors and proposals are trained; None takes the first in order.
        """
        return self._losses(images, sizes, truths, key)[0]

    def _losses(
        self, images: jax.Array, sizes: jax.Array | None, truths: Truths, key: jax.Array | None
    ) -> tuple[dict[str, jax.Array], Sampled, Levels, Canvas]:
        keys = (None, None) if key is None else jax.random.split(key)
        levels, canvas = self.pyramid(images, sizes, train=True)
        logits, deltas = self.rpn_outputs(levels, canvas)
        found = {name: truths[name] for name in ("boxes", "labels", "valid")}
        result = rpn_losses(logits, deltas, self.anchors(canvas), canvas.sizes, found, keys[0], self.preset)
        boxes, valid = self.proposals(logits, deltas, canvas, train=True)
        sampled = sample_proposals(boxes, valid, found, keys[1], self.preset)
        outputs = self.box_outputs(levels, canvas, sampled.boxes)
        return result | box_losses(*outputs, sampled, found, self.preset), sampled, levels, canvas


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask of each detection. See `FasterRCNN`."""

    def setup(self) -> None:
        super().setup()
        self.mask_head = MaskHead(self.width, dtype=self.dtype)
        self.mask_predictor = MaskPredictor(self.num_classes, self.width, dtype=self.dtype)

    def mask_logits(self, levels: Levels, canvas: Canvas, boxes: jax.Array, labels: jax.Array) -> jax.Array:
        """Mask logits float32 [N, K, 28, 28] of boxes [N, K, 4] for the classes int [N, K]."""
        crops = self.crops(levels, canvas, boxes, 14)
        count, boxes_each = labels.shape
        hidden = self.mask_head(crops.reshape(-1, *crops.shape[2:]))
        logits = self.mask_predictor(hidden, labels.reshape(-1))
        return logits.reshape(count, boxes_each, *logits.shape[1:])

    def everything(self, images: jax.Array) -> Detections:
        result = super().everything(images)
        crops = jnp.zeros((1, 14, 14, self.width), self.dtype)
        return result | {"masks": self.mask_predictor(self.mask_head(crops), jnp.zeros(1, jnp.int32))}

    def detections(self, images: jax.Array, sizes: jax.Array | None) -> Detections:
        levels, canvas = self.pyramid(images, sizes)
        found = self.detect(levels, canvas)
        logits = self.mask_logits(levels, canvas, found["boxes"], found["labels"])
        return found | {"masks": jax.nn.sigmoid(logits)}

    def losses(
        self, images: jax.Array, sizes: jax.Array | None, truths: Truths, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Those of `FasterRCNN` and `loss_mask`."""
        result, sampled, levels, canvas = self._losses(images, sizes, truths, key)
        # Objects are sampled first, so that the first places hold all of them.
        most = int(self.preset.box_samples * self.preset.box_share)
        objects = sampled.first(min(most, self.preset.mask_samples or most))
        own = jnp.take_along_axis(truths["labels"], objects.matched, axis=1)
        logits = self.mask_logits(levels, canvas, objects.boxes, own)
        return result | {"loss_mask": mask_loss(logits, objects, truths, max(canvas.shape))}
