"""torchvision's detectors with short random backbones, run without its compiled operators."""

import contextlib
import importlib
from collections import OrderedDict
from unittest import mock

import numpy as np
import torch

from eca_jax.weights.torch.peer import import_torchvision

import_torchvision()
from torchvision.models import resnet  # noqa: E402
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet  # noqa: E402
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor  # noqa: E402
from torchvision.ops import boxes as box_ops  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402

KINDS = {"retinanet": RetinaNet, "faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}


class Gated(resnet.Bottleneck):
    """torchvision's block with ECA after its last BatchNorm, as the release's."""

    def __init__(self, inplanes, planes, *args, **kwargs):
        super().__init__(inplanes, planes, *args, **kwargs)
        self.eca = torch.nn.Module()
        self.eca.conv = torch.nn.Conv1d(1, 1, 5, padding=2, bias=False)
        bn3 = self.bn3.forward

        def gated(x):
            y = bn3(x)
            weights = self.eca.conv(y.mean((2, 3))[:, None])[:, 0]
            return y * torch.sigmoid(weights)[:, :, None, None]

        self.bn3.forward = gated


def detector(kind, num_classes=7, eca=False, seed=0, **options):
    """A detector in evaluation mode, of one block a stage, with random weights and statistics."""
    torch.manual_seed(seed)
    body = resnet.ResNet(Gated if eca else resnet.Bottleneck, [1, 1, 1, 1])
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)} if kind == "retinanet" else {}
    backbone = _resnet_fpn_extractor(body, 5, **levels)
    model = KINDS[kind](backbone, num_classes, **{"min_size": 64, "max_size": 128} | options)
    randomize(model, seed + 1)
    return model.eval()


def randomize(model, seed=1):
    """Weights by their fan-in, so that scores and boxes are spread, and statistics that are not those of a start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else None
            if noise is None:
                continue
            if name.endswith("running_var"):
                value.copy_(noise.abs() + 0.5)
            elif name.endswith("running_mean") or (value.ndim == 1 and "bn" not in name and "downsample" not in name):
                value.copy_(0.1 * noise)
            elif value.ndim == 1:
                value.copy_(0.3 * noise + 1 if name.endswith("weight") else 0.3 * noise)
            else:
                value.copy_(noise * (1.4 / np.sqrt(value[0].numel())))
        for name, scale in {"bbox_pred": 0.03, "bbox_reg": 0.03, "cls_logits": 0.03, "cls_score": 0.02}.items():
            for key, value in model.state_dict().items():
                if f"{name}.weight" in key:
                    value.mul_(scale)


def suppress(boxes, scores, threshold):
    """Greedy suppression in PyTorch."""
    order = torch.argsort(scores, descending=True, stable=True)
    overlap = box_ops.box_iou(boxes[order], boxes[order]) > threshold
    kept = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if kept[i]:
            kept[i + 1 :] &= ~overlap[i, i + 1 :]
    return order[kept]


def plain_roi_align(features, rois, size):
    """torchvision's ROIAlign [K, C, size, size] in PyTorch, with as many samples of a bin as it has pixels."""
    roi_align = importlib.import_module("torchvision.ops.roi_align")
    plain = getattr(roi_align._roi_align, "__wrapped__", roi_align._roi_align)
    return plain(features, rois, torch.tensor(1.0), size, size, -1, False)


def read_as_compiled(read):
    """torchvision's bilinear reading in PyTorch with its compiled operators' rule: a sample beyond the map is 0.

    A box narrower than a cell at the border has such samples; the form in PyTorch clamps them.
    """

    def outside_is_zero(features, numbers, y, x, y_mask, x_mask):
        inside = [(p >= -1) & (p <= size) for p, size in zip((y, x), features.shape[2:], strict=True)]
        values = read(features, numbers, y, x, y_mask, x_mask)
        return values * (inside[0][:, None, :, None, :, None] & inside[1][:, None, None, :, None, :])

    return outside_is_zero


@contextlib.contextmanager
def plain_operators(gradients=False):
    """torchvision's detectors run without its compiled operators, suppression on true coordinates, nothing compiled."""
    roi_align = importlib.import_module("torchvision.ops.roi_align")
    plain = getattr(roi_align._roi_align, "__wrapped__", roi_align._roi_align)
    with (
        torch.set_grad_enabled(gradients),
        mock.patch.object(box_ops, "nms", suppress),
        mock.patch.object(box_ops, "_batched_nms_coordinate_trick", box_ops._batched_nms_vanilla),
        mock.patch.object(roi_align, "_roi_align", plain),
        mock.patch.object(roi_align, "_bilinear_interpolate", read_as_compiled(roi_align._bilinear_interpolate)),
        mock.patch.object(roi_align, "_has_ops", lambda: False),
    ):
        yield


def image_list(images, sizes):
    """Normalised images NHWC on a canvas as torchvision takes one by itself: cut and padded to a multiple of 32."""
    from torchvision.models.detection.image_list import ImageList

    for image, (height, width) in zip(images, sizes, strict=True):
        rows, columns = -(-height // 32) * 32, -(-width // 32) * 32
        padded = np.zeros((1, 3, rows, columns), np.float32)
        padded[0, :, :height, :width] = image[:height, :width].transpose(2, 0, 1)
        yield ImageList(torch.tensor(padded), [(int(height), int(width))])


def run(model, image):
    """What torchvision computes of an `ImageList` of one: pyramid, proposals (None for RetinaNet), detections."""
    features = model.backbone(image.tensors)
    if isinstance(features, torch.Tensor):
        features = OrderedDict([("0", features)])
    maps = list(features.values())
    if isinstance(model, RetinaNet):
        outputs = model.head(maps)
        anchors = model.anchor_generator(image, maps)
        counts = [x.size(2) * x.size(3) * 9 for x in maps]
        split = {k: list(v.split(counts, dim=1)) for k, v in outputs.items()}
        found = model.postprocess_detections(split, [list(a.split(counts)) for a in anchors], image.image_sizes)
        return maps, None, found[0]
    proposals, _ = model.rpn(image, features, None)
    found, _ = model.roi_heads(features, proposals, image.image_sizes, None)
    return maps, proposals[0], found[0]
