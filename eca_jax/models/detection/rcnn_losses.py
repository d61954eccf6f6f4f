"""What Faster and Mask R-CNN are trained on: sampled anchors, sampled proposals, and masks of the objects."""

import math

import jax
import jax.numpy as jnp
from flax import struct

from eca_jax.models.detection import boxes as box_ops
from eca_jax.models.detection import losses, matching
from eca_jax.models.detection.detector import Truths
from eca_jax.models.detection.rules import Rules

Level = tuple[jax.Array, jax.Array]
MASK_SIZE = 28


@struct.dataclass
class Sampled:
    """Proposals that the box head is trained on, objects first.

    Attributes:
      boxes: [N, S, 4].
      matched: int32 [N, S], the number of the object; 0 for background.
      positive, chosen: bool [N, S], whether there is an object, and whether there is a sample.
    """

    boxes: jax.Array
    matched: jax.Array
    positive: jax.Array
    chosen: jax.Array

    def first(self, count: int) -> "Sampled":
        """The first `count` samples of each image."""
        return jax.tree.map(lambda value: value[:, :count], self)


def priorities(key: jax.Array | None, images: int, count: int) -> jax.Array:
    """[images, count] in [0, 1], the highest first: uniform, or without a key in the order of their index."""
    if key is None:
        return jnp.broadcast_to(1 - jnp.arange(count, dtype=jnp.float32) / count, (images, count))
    return jax.random.uniform(key, (images, count))


def rpn_losses(
    logits: list[jax.Array],
    deltas: list[jax.Array],
    anchors: list[Level],
    sizes: jax.Array,
    truths: Truths,
    key: jax.Array | None,
    rules: Rules,
) -> dict[str, jax.Array]:
    """`loss_objectness` and `loss_rpn_box_reg`, both divided by the sampled anchors of the batch."""
    logit, delta = jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)
    anchor = jnp.concatenate([boxes for boxes, _ in anchors], axis=1)
    inside = jnp.concatenate([valid for _, valid in anchors], axis=1)
    if rules.rpn_inside:
        limits = jnp.concatenate([jnp.full_like(sizes, jnp.iinfo(jnp.int32).max), sizes[:, ::-1]], axis=1)[:, None]
        inside &= jnp.all(anchor[..., :2] >= 0, axis=-1) & jnp.all(anchor < limits, axis=-1)

    def one_image(image: tuple) -> tuple[jax.Array, jax.Array, jax.Array]:
        logit, delta, anchor, inside, truth, priority = image
        matched = matching.match(
            truth["boxes"],
            truth["valid"],
            anchor,
            inside,
            positive=rules.rpn_positive,
            negative=rules.rpn_negative,
            least=rules.rpn_least,
            best_to_own=rules.best_to_own,
            offset=rules.offset,
        )
        most = int(rules.rpn_samples * rules.rpn_share)
        background = matched == matching.BACKGROUND
        chosen, there = matching.sample(matched >= 0, background, priority, rules.rpn_samples, most)
        matched = matched[chosen]
        positive = there & (matched >= 0)
        objectness = losses.binary_cross_entropy(logit[chosen], positive.astype(jnp.float32))
        wanted = box_ops.encode(truth["boxes"][jnp.maximum(matched, 0)], anchor[chosen], offset=rules.offset)
        distance = losses.smooth_l1(delta[chosen], jnp.where(positive[:, None], wanted, 0.0), 1 / 9)
        return (
            jnp.sum(jnp.where(there, objectness, 0.0)),
            jnp.sum(jnp.where(positive[:, None], distance, 0.0)),
            jnp.sum(there),
        )

    priority = priorities(key, *logit.shape)
    objectness, regression, count = jax.vmap(one_image)((logit, delta, anchor, inside, truths, priority))
    total = jnp.maximum(jnp.sum(count), 1)
    return {"loss_objectness": jnp.sum(objectness) / total, "loss_rpn_box_reg": jnp.sum(regression) / total}


def sample_proposals(
    boxes: jax.Array, valid: jax.Array, truths: Truths, key: jax.Array | None, rules: Rules
) -> Sampled:
    """Of the proposals [N, P, 4] and the objects themselves those that the box head is trained on."""
    boxes = jnp.concatenate([boxes, truths["boxes"]], axis=1)
    valid = jnp.concatenate([valid, truths["valid"]], axis=1)

    def one_image(image: tuple) -> Sampled:
        box, valid, truth, priority = image
        matched = matching.match(
            truth["boxes"],
            truth["valid"],
            box,
            valid,
            positive=rules.box_positive,
            negative=rules.box_positive,
            least=rules.box_least,
            best_to_own=rules.best_to_own,
            offset=rules.offset,
        )
        most = int(rules.box_samples * rules.box_share)
        background = matched == matching.BACKGROUND
        chosen, there = matching.sample(matched >= 0, background, priority, rules.box_samples, most)
        matched = matched[chosen]
        return Sampled(box[chosen], jnp.maximum(matched, 0), there & (matched >= 0), there)

    return jax.lax.stop_gradient(jax.vmap(one_image)((boxes, valid, truths, priorities(key, *valid.shape))))


def box_losses(
    logits: jax.Array, deltas: jax.Array, sampled: Sampled, truths: Truths, rules: Rules
) -> dict[str, jax.Array]:
    """`loss_classifier` and `loss_box_reg`, both divided by the sampled boxes of the batch."""
    labels = jnp.take_along_axis(truths["labels"], sampled.matched, axis=1)
    labels = jnp.where(sampled.positive, labels, 0)
    count = jnp.maximum(jnp.sum(sampled.chosen), 1)
    classification = jnp.where(sampled.chosen, losses.cross_entropy(logits, labels), 0.0)
    own = jnp.take_along_axis(deltas, labels[..., None, None], axis=2)[:, :, 0]
    target = jnp.take_along_axis(truths["boxes"], sampled.matched[..., None], axis=1)
    wanted = box_ops.encode(target, sampled.boxes, rules.box_weights, rules.offset)
    positive = sampled.positive[..., None]
    distance = losses.smooth_l1(own, jnp.where(positive, wanted, 0.0), rules.box_beta)
    return {
        "loss_classifier": jnp.sum(classification) / count,
        "loss_box_reg": jnp.sum(jnp.where(positive, distance, 0.0)) / count,
    }


def mask_loss(logits: jax.Array, sampled: Sampled, truths: Truths, largest: int) -> jax.Array:
    """Mean binary cross-entropy of the objects' masks [N, S, 28, 28] over the batch; 0 without objects.

    `largest` is the most pixels that a box is wide or high.
    """

    def own(values: jax.Array) -> jax.Array:
        return jax.vmap(lambda value, index: value[index])(values, sampled.matched)

    masks = own(truths["masks"])
    areas = own(truths.get("mask_boxes", truths["boxes"]))
    target = jax.lax.stop_gradient(mask_targets(masks, areas, sampled.boxes, largest))
    loss = jnp.mean(losses.binary_cross_entropy(logits, target), axis=(-2, -1))
    return jnp.sum(jnp.where(sampled.positive, loss, 0.0)) / jnp.maximum(jnp.sum(sampled.positive), 1)


def mask_targets(masks: jax.Array, areas: jax.Array, boxes: jax.Array, largest: int) -> jax.Array:
    """What the mask head should give for boxes [..., 4]: float32 [..., 28, 28] in [0, 1].

    torchvision's ROIAlign of the mask with as many samples of a bin as it has pixels, as one matrix for rows and one
    for columns.

    Args:
      masks: 0 and 1, [..., R, C], of the area [..., 4] of the image; cell (0, 0) is its upper left corner.
      largest: the most pixels that a box is wide or high.
    """
    samples = math.ceil(largest / MASK_SIZE)
    width, height = box_ops.sizes(boxes)
    area_width, area_height = box_ops.sizes(areas)
    rows, columns = masks.shape[-2:]
    x = _averages(boxes[..., 0], width, areas[..., 0], columns / area_width, columns, samples)
    y = _averages(boxes[..., 1], height, areas[..., 1], rows / area_height, rows, samples)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("...pr,...rc,...qc->...pq", y, masks.astype(jnp.float32), x, precision=highest)


def _averages(
    start: jax.Array, extent: jax.Array, origin: jax.Array, scale: jax.Array, cells: int, samples: int
) -> jax.Array:
    """[..., 28, cells]: the weights of the cells of an axis in each of the 28 bins of a box."""
    bin_size = jnp.maximum(extent, 1.0) / MASK_SIZE
    count = jnp.ceil(extent / MASK_SIZE)[..., None, None]
    sample = jnp.arange(samples, dtype=jnp.float32)
    number = jnp.arange(MASK_SIZE, dtype=jnp.float32)[:, None]
    p = start[..., None, None] + bin_size[..., None, None] * (number + (sample + 0.5) / jnp.maximum(count, 1))
    p = (p - origin[..., None, None]) * scale[..., None, None]
    weight = (sample < count) & (p >= -1) & (p <= cells)
    p = jnp.clip(p, 0, cells - 1)[..., None]
    hat = jnp.maximum(1 - jnp.abs(p - jnp.arange(cells, dtype=jnp.float32)), 0.0) * weight[..., None]
    return jnp.sum(hat, axis=-2) / jnp.maximum(count, 1)
