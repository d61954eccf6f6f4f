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


def matched(ours, theirs, image):
    """Our detections of an image and torchvision's, in one order of label and box."""
    there = np.asarray(ours["valid"][image])
    labels, boxes = np.asarray(ours["labels"][image])[there], np.asarray(ours["boxes"][image])[there]
    assert len(labels) == len(theirs["labels"])
    order = []
    free = np.ones(len(labels), bool)
    for label, box in zip(theirs["labels"].numpy(), theirs["boxes"].numpy(), strict=True):
        distance = np.abs(boxes - box).max(axis=1) + 1e6 * (~free | (labels != label))
        order.append(int(np.argmin(distance)))
        free[order[-1]] = False
    return np.flatnonzero(there)[order]


@pytest.mark.slow
@pytest.mark.parametrize("eca", [False, True], ids=["plain", "eca"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_two_images_of_a_canvas_are_detected_as_torchvision_detects_each(kind, eca, images):
    peer, model = peers.detector(kind, eca=eca), flax_model(kind, eca)
    variables = variables_of(model, peer)

    def everything(model, images, sizes):
        levels, canvas = model.pyramid(images, sizes)
        if kind == "retinanet":
            return levels, None, model(images, sizes)
        return levels, model.proposals(*model.rpn_outputs(levels, canvas), canvas), model(images, sizes)

    run = jax.jit(lambda variables: model.apply(variables, images, SIZES, method=everything))
    levels, proposals, found = run(variables)
    with peers.plain_operators():
        for i, image in enumerate(peers.image_list(images, SIZES)):
            maps, expected_proposals, expected = peers.run(peer, image)
            for level, expected_map in zip(levels, maps, strict=True):
                expected_map = expected_map[0].permute(1, 2, 0).numpy()
                ours = np.asarray(level[i, : expected_map.shape[0], : expected_map.shape[1]])
                np.testing.assert_allclose(ours, expected_map, atol=5e-6 * np.abs(expected_map).max())
            if proposals is not None:
                ours = np.asarray(proposals[0][i][proposals[1][i]])
                assert len(ours) == len(expected_proposals)
                distance = np.abs(ours[:, None] - expected_proposals.numpy()).max(-1)
                assert distance.min(axis=0).max() < 1e-2 and distance.min(axis=1).max() < 1e-2
            order = matched(found, expected, i)
            assert len(order) > 10
            np.testing.assert_allclose(found["boxes"][i][order], expected["boxes"], atol=1e-2)
            np.testing.assert_allclose(found["scores"][i][order], expected["scores"], atol=1e-5)
            if kind == "mask_rcnn":
                np.testing.assert_allclose(found["masks"][i][order], expected["masks"][:, 0], atol=1e-4)


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
