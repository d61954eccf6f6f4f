"""Detectors against torchvision's, each image of a canvas against the same image by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from eca_jax.models.detection import canvas as canvas_module
from eca_jax.models.detection.register import KINDS, NAMING
from eca_jax.weights.torch import names

torch = pytest.importorskip("torch")
import peers  # noqa: E402

SIZES = np.array([[60, 96], [128, 75]], np.int32)
CANVAS = (160, 128)


def flax_model(kind, eca=False, num_classes=7, **options):
    backbone = {"backbone": "eca_resnet50", "kernel_sizes": (5, 5, 5, 5)} if eca else {"backbone": "resnet50"}
    return KINDS[kind](**backbone, backbone_options={"stage_sizes": (1, 1, 1, 1)}, num_classes=num_classes, **options)


def variables_of(model, peer):
    rules = NAMING.rules("torchvision_detection")
    tensors = peer.state_dict()
    flat = {}
    for path, shape in names.variable_shapes(model, 64).items():
        pair = names._pair(path, shape, rules)
        flat[path] = pair.layout.to_flax(tensors.pop(pair.key).numpy())
    assert not [k for k in tensors if not k.endswith("num_batches_tracked") and ".fc." not in k]
    return unflatten_dict(flat)


@pytest.fixture
def images():
    noise = np.random.default_rng(0).normal(0, 1, (2, *CANVAS, 3)).astype(np.float32)
    return noise


def nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def assert_close(ours, theirs, tolerance):
    """Relative to the largest value."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def assert_same_detections(found, expected, pixels=1e-3, score=1e-6):
    """The same labels, boxes and scores of one image, in whatever order."""
    there = np.asarray(found["valid"])
    labels, boxes, scores = (np.asarray(found[name])[there] for name in ("labels", "boxes", "scores"))
    assert len(labels) == len(expected["labels"]) > 10
    free = np.ones(len(labels), bool)
    for label, box, sure in zip(*(expected[name].numpy() for name in ("labels", "boxes", "scores")), strict=True):
        distance = np.abs(boxes - box).max(axis=1) + 1e6 * (~free | (labels != label))
        nearest = int(np.argmin(distance))
        free[nearest] = False
        assert distance[nearest] < pixels and abs(scores[nearest] - sure) < score


@pytest.mark.slow
@pytest.mark.parametrize("eca", [False, True], ids=["plain", "eca"])
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])  # Mask R-CNN's is Faster R-CNN's
def test_two_images_of_a_canvas_have_torchvisions_features_of_each(kind, eca, images):
    peer, model = peers.detector(kind, eca=eca), flax_model(kind, eca)
    variables = variables_of(model, peer)
    pyramid = jax.jit(lambda variables: model.apply(variables, images, SIZES, method=lambda m, *x: m.pyramid(*x)[0]))
    levels = pyramid(variables)
    with peers.plain_operators():
        for i, image in enumerate(peers.image_list(images, SIZES)):
            for level, expected in zip(levels, peer.backbone(image.tensors).values(), strict=True):
                expected = nhwc(expected)[0]
                assert_close(level[i, : expected.shape[0], : expected.shape[1]], expected, 5e-6)


def alone(images):
    """The first image on a canvas of its own: for us and for torchvision, and its size."""
    (image, _) = peers.image_list(images, SIZES)
    return jnp.asarray(nhwc(image.tensors)), image, jnp.asarray(SIZES[:1])


@pytest.mark.slow
def test_every_stage_of_mask_rcnn_is_torchvisions_on_the_same_input(images):
    """What a stage is given is torchvision's, so that no near tie of one stage decides what the next one sees."""
    peer, model = peers.detector("mask_rcnn"), flax_model("mask_rcnn")
    variables = variables_of(model, peer)
    pixels, image, sizes = alone(images)
    with peers.plain_operators():
        maps = peer.backbone(image.tensors)
        logits, deltas = peer.rpn.head(list(maps.values()))
        proposals = peer.rpn(image, maps, None)[0]
        heads = peer.roi_heads
        crops = heads.box_roi_pool(maps, proposals, image.image_sizes)
        scores, regressions = heads.box_predictor(heads.box_head(crops))
        boxes, box_scores, labels = heads.postprocess_detections(scores, regressions, proposals, image.image_sizes)
        mask_crops = heads.mask_roi_pool(maps, boxes, image.image_sizes)
        mask_logits = heads.mask_predictor(heads.mask_head(mask_crops))[range(len(labels[0])), labels[0]]

    def stages(model, pixels):
        _, canvas = model.pyramid(pixels, sizes)
        levels = tuple(jnp.asarray(nhwc(level)) for level in maps.values())
        rpn = model.rpn_outputs(levels, canvas)
        flat = [nhwc(level).reshape(1, -1) for level in logits]
        flat_deltas = [nhwc(level).reshape(1, -1, 4) for level in deltas]
        own_proposals = model.proposals([*map(jnp.asarray, flat)], [*map(jnp.asarray, flat_deltas)], canvas)
        given = jnp.asarray(proposals[0].numpy())[None]
        box = model.box_outputs(levels, canvas, given)
        found = model._detections(
            jnp.asarray(scores.numpy()),
            jnp.asarray(regressions.numpy()).reshape(len(scores), -1, 4),
            given[0],
            jnp.ones(given.shape[1], bool),
            sizes[0],
        )
        masks = model.mask_logits(
            levels, canvas, jnp.asarray(boxes[0].numpy())[None], jnp.asarray(labels[0].numpy())[None]
        )
        return rpn, own_proposals, box, found, masks

    rpn, own, box, found, masks = jax.jit(lambda v, x: model.apply(v, x, method=stages))(variables, pixels)
    for ours, expected in zip(rpn[0], logits, strict=True):
        assert_close(ours, nhwc(expected).reshape(1, -1), 1e-5)
    for ours, expected in zip(rpn[1], deltas, strict=True):
        assert_close(ours, nhwc(expected).reshape(1, -1, 4), 1e-5)
    kept = np.asarray(own[0][0])[np.asarray(own[1][0])]
    assert len(kept) == len(proposals[0])
    np.testing.assert_allclose(kept, proposals[0], atol=1e-3)
    assert_close(box[0][0], scores, 1e-5)
    assert_close(box[1][0].reshape(len(scores), -1), regressions, 1e-5)
    assert_same_detections(found, {"boxes": boxes[0], "labels": labels[0], "scores": box_scores[0]})
    assert_close(masks[0], mask_logits, 1e-5)


@pytest.mark.slow
def test_every_stage_of_retinanet_is_torchvisions_on_the_same_input(images):
    peer, model = peers.detector("retinanet"), flax_model("retinanet")
    variables = variables_of(model, peer)
    pixels, image, sizes = alone(images)
    with peers.plain_operators():
        maps = list(peer.backbone(image.tensors).values())
        outputs = peer.head(maps)
        counts = [level.shape[2] * level.shape[3] * 9 for level in maps]
        split = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        anchors = [list(one.split(counts)) for one in peer.anchor_generator(image, maps)]
        (expected,) = peer.postprocess_detections(split, anchors, image.image_sizes)

    def stages(model, pixels):
        logits, deltas, canvas = model.outputs(pixels, sizes)
        given = [[jnp.asarray(level[0].numpy()) for level in split[name]] for name in ("cls_logits", "bbox_regression")]
        own_anchors = [(boxes[0], inside[0]) for boxes, inside in model.anchors(canvas)]
        return logits, deltas, own_anchors, model._detections(*given, own_anchors, sizes[0])

    logits, deltas, own, found = jax.jit(lambda v, x: model.apply(v, x, method=stages))(variables, pixels)
    for ours, theirs in zip((*logits, *deltas), (*split["cls_logits"], *split["bbox_regression"]), strict=True):
        assert_close(ours, theirs, 1e-4)
    for (boxes, inside), theirs in zip(own, anchors[0], strict=True):
        np.testing.assert_allclose(np.asarray(boxes)[np.asarray(inside)], theirs, atol=1e-4)
    assert_same_detections(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("eca", [False, True], ids=["plain", "eca"])
def test_without_the_valid_area_a_canvas_changes_the_features(eca, images, monkeypatch):
    model = flax_model("faster_rcnn", eca)
    variables = variables_of(model, peers.detector("faster_rcnn", eca=eca))

    def pyramid(images, sizes):
        return model.apply(variables, images, sizes, method=lambda model, *inputs: model.pyramid(*inputs)[0])

    alone = pyramid(images[:1, :64, :96], SIZES[:1])
    right = pyramid(images[:1], SIZES[:1])
    masked = canvas_module.Canvas.masked
    monkeypatch.setattr(canvas_module.Canvas, "masked", lambda self, x: x)
    wrong = pyramid(images[:1], SIZES[:1])
    monkeypatch.setattr(canvas_module.Canvas, "masked", masked)

    def difference(levels):
        pairs = [(a[0], b[0, : a.shape[1], : a.shape[2]]) for a, b in zip(alone, levels, strict=True)]
        return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a))) for a, b in pairs)

    assert difference(right) < 5e-6
    assert difference(wrong) > 0.1
