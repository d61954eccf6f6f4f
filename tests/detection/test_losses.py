"""Losses and gradients against torchvision's, both taking the first anchors and proposals in order."""

from unittest import mock

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import peers  # noqa: E402
from test_detectors import SIZES, flax_model, variables_of  # noqa: E402

from eca_jax.models.detection.rcnn import FasterRCNN  # noqa: E402
from eca_jax.models.detection.rcnn_losses import mask_targets  # noqa: E402

CANVAS = (128, 96)
OBJECTS = [[[5, 8, 60, 50]], [[10, 20, 70, 120], [3, 3, 40, 30], [30, 60, 50, 100]]]


def truths():
    """The same objects for both: padded to five for us."""
    boxes, labels = np.zeros((2, 5, 4), np.float32), np.zeros((2, 5), np.int32)
    valid = np.zeros((2, 5), bool)
    masks = np.zeros((2, 5, *CANVAS), np.float32)
    for i, objects in enumerate(OBJECTS):
        for k, (x1, y1, x2, y2) in enumerate(objects):
            boxes[i, k], labels[i, k], valid[i, k] = (x1, y1, x2, y2), 1 + (i + k) % 6, True
            y, x = np.mgrid[: CANVAS[0], : CANVAS[1]]
            middle = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2
            masks[i, k] = middle <= 0.25
    areas = np.broadcast_to(np.array([0, 0, CANVAS[1], CANVAS[0]], np.float32), boxes.shape)
    return {"boxes": boxes, "labels": labels, "valid": valid, "masks": masks, "mask_boxes": areas}


def torch_losses(model, images, objects):
    from torchvision.models.detection import roi_heads
    from torchvision.models.detection.image_list import ImageList

    def box_by_box(masks, boxes, matched, size):
        crops = [
            peers.plain_roi_align(masks[m][None, None].float(), torch.cat([torch.zeros(1), b])[None], size)
            for b, m in zip(boxes, matched, strict=True)
        ]
        return torch.cat(crops)[:, 0] if crops else torch.zeros(0, size, size)

    targets = []
    for i in range(2):
        count = int(objects["valid"][i].sum())
        part = {key: torch.tensor(objects[key][i][:count]) for key in ("boxes", "labels", "masks")}
        targets.append(part | {"labels": part["labels"].long(), "masks": part["masks"].to(torch.uint8)})
    batch = ImageList(torch.tensor(images.transpose(0, 3, 1, 2)), [tuple(map(int, size)) for size in SIZES])
    for module in model.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    found = []
    with (
        peers.plain_operators(gradients=True),
        mock.patch.object(torch, "randperm", lambda n, **_: torch.arange(n)),
        mock.patch.object(roi_heads, "project_masks_on_boxes", box_by_box),
    ):
        features = model.backbone(batch.tensors)
        if hasattr(model, "head"):
            maps = list(features.values())
            anchors = model.anchor_generator(batch, maps)
            losses = model.compute_loss(targets, model.head(maps), anchors)
        else:
            proposals, first = model.rpn(batch, features, targets)
            found = [boxes.detach().numpy() for boxes in proposals]
            losses = first | model.roi_heads(features, proposals, batch.image_sizes, targets)[1]
        sum(losses.values()).backward()
    return {name: float(value.detach()) for name, value in losses.items()}, found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn", "mask_rcnn"])
def test_losses_and_gradients_are_torchvisions(kind):
    few, same = {}, {}
    if kind != "retinanet":  # enough that the head samples of them, and few for PyTorch's slow crops
        few = {"rpn_post_nms_top_n_train": 150, "box_batch_size_per_image": 96}
        same = {"rule_options": {"box_samples": 96}}
    peer, model = peers.detector(kind, **few), flax_model(kind, **same)
    variables = variables_of(model, peer)
    images = np.random.default_rng(0).normal(0, 1, (2, *CANVAS, 3)).astype(np.float32)
    for image, (height, width) in zip(images, SIZES, strict=True):
        image[height:], image[:, width:] = 0, 0
    objects = truths()
    # In training torchvision pads to the batch, so that both images have the padded size of the canvas.
    whole = mock.patch("eca_jax.models.detection.canvas.Canvas.padded", np.full((2, 2), CANVAS, np.int32))

    def total(params):
        losses = model.apply({**variables, "params": params}, images, SIZES, objects, method="losses")
        return sum(losses.values()), losses

    expected, proposals = torch_losses(peer, images, objects)
    # The second stage is given torchvision's proposals: of two that nearly tie either may be the one that is kept.
    given = np.zeros((2, max(map(len, proposals), default=0), 4), np.float32)
    for row, boxes in zip(given, proposals, strict=False):
        row[: len(boxes)] = boxes
    valid = np.arange(given.shape[1]) < np.array([[len(boxes)] for boxes in proposals or ([], [])])

    def proposed(self, logits, deltas, canvas, train=False):
        return given, valid

    with whole, mock.patch.object(FasterRCNN, "proposals", proposed):
        gradients, losses = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    assert set(losses) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5, err_msg=name)

    class Gradients:
        @staticmethod
        def state_dict():
            zero = {key: torch.zeros_like(value) for key, value in peer.state_dict().items()}
            return zero | {key: value.grad for key, value in peer.named_parameters() if value.grad is not None}

    wanted = variables_of(model, Gradients)["params"]
    norms = jax.tree.map(lambda a, b: np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12), gradients, wanted)
    norms = np.array([norm for norm in jax.tree.leaves(norms) if norm < 1e6])
    assert np.median(norms) < 1e-4 and norms.max() < 5e-3


def test_mask_targets_are_torchvisions():
    objects = truths()
    box = np.array([[4.3, 8.1, 50.7, 47.9], [10, 20, 70, 120]], np.float32)
    masks, areas = objects["masks"][:, 0], objects["mask_boxes"][:, 0]
    ours = mask_targets(masks, areas, box, 128)
    for i in range(2):
        region = torch.tensor(np.concatenate([[0], box[i]])[None]).float()
        expected = peers.plain_roi_align(torch.tensor(masks[i])[None, None], region, 28)
        np.testing.assert_allclose(ours[i], expected[0, 0], atol=1e-5)
