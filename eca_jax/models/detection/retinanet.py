"""RetinaNet (Lin et al., "Focal loss for dense object detection", ICCV 2017)."""

import jax
import jax.numpy as jnp

from eca_jax.layers.fpn import FPN
from eca_jax.models.detection import boxes as box_ops
from eca_jax.models.detection import losses, matching
from eca_jax.models.detection.anchors import level_anchors, retina_cells
from eca_jax.models.detection.canvas import Canvas, valid_area
from eca_jax.models.detection.detector import Detections, Detector, Truths
from eca_jax.models.detection.heads import RetinaHead
from eca_jax.models.detection.nms import nms

STRIDES = (8, 16, 32, 64, 128)
ANCHORS = 9


class RetinaNet(Detector):
    """One stage: classes and boxes of nine anchors at every cell of P3 to P7. See `Detector`.

    The columns of its logits are sigmoids; torchvision's have one for the background too, which is never a target.
    """

    first_stage = 1

    @property
    def columns(self) -> int:
        """Classes that have a logit."""
        return self.num_classes if self.preset.retina_background else self.num_classes - 1

    def setup(self) -> None:
        super().setup()
        self.head = RetinaHead(self.columns, ANCHORS, dtype=self.dtype)

    def _pyramid(self) -> FPN:
        return FPN(self.width, extra=self.preset.p6_from.lower(), relu=self.preset.p7_relu, dtype=self.dtype)

    def classes_of(self, module: tuple[str, ...], outputs: int) -> int | None:
        if module != ("head", "cls_logits"):
            return None
        return outputs // ANCHORS + (0 if self.preset.retina_background else 1)

    def outputs(
        self, images: jax.Array, sizes: jax.Array | None = None, train: bool = False
    ) -> tuple[list[jax.Array], list[jax.Array], Canvas]:
        """For each level logits float32 [N, A, columns] and deltas [N, A, 4], and the canvas. See `pyramid`."""
        levels, canvas = self.pyramid(images, sizes, train)
        with valid_area(canvas):
            return *self.head(levels), canvas

    def anchors(self, canvas: Canvas) -> list[tuple[jax.Array, jax.Array]]:
        """For each level boxes [N, A, 4] and which of them are their image's, bool [N, A]."""
        cells = retina_cells(STRIDES, self.preset)
        padded = canvas.padded
        return [
            level_anchors(cell, stride, canvas.shape, padded, self.preset)
            for cell, stride in zip(cells, STRIDES, strict=True)
        ]

    def everything(self, images: jax.Array) -> Detections:
        return {"logits": self.outputs(images)[0][0]}

    def detections(self, images: jax.Array, sizes: jax.Array | None) -> Detections:
        logits, deltas, canvas = self.outputs(images, sizes)

        def one_image(image: tuple) -> Detections:
            return self._detections(*image)

        return jax.vmap(one_image)((logits, deltas, self.anchors(canvas), canvas.sizes))

    def _detections(self, logits: list, deltas: list, anchors: list, size: jax.Array) -> Detections:
        rules = self.preset
        scores, labels, boxes = [], [], []
        for logit, delta, (anchor, inside) in zip(logits, deltas, anchors, strict=True):
            score = jax.nn.sigmoid(logit)
            score = jnp.where(inside[:, None] & (score > rules.score), score, -jnp.inf)
            if rules.retina_pairs:
                best, pair = jax.lax.top_k(score.reshape(-1), min(rules.retina_before, score.size))
                chosen, column = pair // self.columns, pair % self.columns
            else:
                count = min(rules.retina_before, len(score))
                _, chosen = jax.lax.top_k(jnp.max(score, axis=1), count)
                best, pair = jax.lax.top_k(score[chosen].reshape(-1), min(rules.retina_before, count * self.columns))
                chosen, column = chosen[pair // self.columns], pair % self.columns
            scores.append(best)
            labels.append(column + (0 if rules.retina_background else 1))
            boxes.append(
                box_ops.decode(delta[chosen], anchor[chosen], offset=rules.offset, clamp_below=rules.clamp_below)
            )
        score, label = jnp.concatenate(scores), jnp.concatenate(labels).astype(jnp.int32)
        box = box_ops.clip(jnp.concatenate(boxes), size, rules.offset)
        kept, found = nms(box, score, label, rules.nms, rules.retina_detections, rules.offset)
        return {
            "boxes": jnp.where(found[:, None], box[kept], 0.0),
            "scores": jnp.where(found, score[kept], 0.0),
            "labels": jnp.where(found, label[kept], 0),
            "valid": found,
        }

    def losses(
        self, images: jax.Array, sizes: jax.Array | None, truths: Truths, key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """`classification` and `bbox_regression`, scalars; the loss is their sum. Nothing is drawn from `key`."""
        rules = self.preset
        logits, deltas, canvas = self.outputs(images, sizes, train=True)
        logit, delta = jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)
        anchors = self.anchors(canvas)
        anchor = jnp.concatenate([boxes for boxes, _ in anchors], axis=1)
        inside = jnp.concatenate([inside for _, inside in anchors], axis=1)

        def one_image(image: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
            logit, delta, anchor, inside, truth = image
            matched = matching.match(
                truth["boxes"],
                truth["valid"],
                anchor,
                inside,
                positive=rules.retina_positive,
                negative=rules.retina_negative,
                least=rules.retina_least,
                best_to_own=rules.best_to_own,
                offset=rules.offset,
            )
            positive, own = matched >= 0, jnp.maximum(matched, 0)
            column = truth["labels"][own] - (0 if rules.retina_background else 1)
            target = jax.nn.one_hot(column, self.columns) * positive[:, None]
            counted = (matched != matching.IGNORED)[:, None]
            classification = jnp.sum(jnp.where(counted, losses.focal(logit, target), 0.0))
            wanted = box_ops.encode(truth["boxes"][own], anchor, offset=rules.offset)
            distance = losses.smooth_l1(delta, jnp.where(positive[:, None], wanted, 0.0), rules.retina_beta)
            regression = jnp.sum(jnp.where(positive[:, None], distance, 0.0))
            return classification, regression, jnp.sum(positive)

        found = {name: truths[name] for name in ("boxes", "labels", "valid")}
        per_image = jax.vmap(one_image)((logit, delta, anchor, inside, found))
        classification, regression, positives = per_image
        if rules.retina_per_image:
            count = jnp.maximum(positives, 1)
            return {
                "classification": jnp.mean(classification / count),
                "bbox_regression": jnp.mean(regression / count),
            }
        count = jnp.maximum(jnp.sum(positives), 1)
        return {
            "classification": jnp.sum(classification) / count,
            "bbox_regression": jnp.sum(regression) / count,
        }
