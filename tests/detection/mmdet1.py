"""mmdetection 1's detectors restated in NumPy from its sources, on tensors by its names; PyTorch does the convolutions.

Boxes count their last pixel: they are x2 - x1 + 1 wide.
"""

import numpy as np
import torch
from torch.nn import functional as F

RPN_STRIDES, RETINA_STRIDES = (4, 8, 16, 32, 64), (8, 16, 32, 64, 128)


class Network:
    """A state dict, and its layers by their names."""

    def __init__(self, tensors):
        self.tensors = {key: torch.tensor(np.asarray(value)) for key, value in tensors.items()}

    def conv(self, name, x, stride=1):
        kernel = self.tensors[f"{name}.weight"]
        return F.conv2d(x, kernel, self.tensors.get(f"{name}.bias"), stride, kernel.shape[-1] // 2)

    def norm(self, name, x):
        values = [self.tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, training=False, eps=1e-5)

    def linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def stages(self, x):
        x = F.max_pool2d(torch.relu(self.norm("backbone.bn1", self.conv("backbone.conv1", x, 2))), 3, 2, 1)
        stages = []
        for stage in range(1, 5):
            x = self.block(f"backbone.layer{stage}.0", x, 1 if stage == 1 else 2)
            stages.append(x)
        return stages

    def block(self, name, x, stride):
        y = torch.relu(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x)))
        y = torch.relu(self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y, stride)))
        y = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", y))
        kernel = self.tensors[f"{name}.eca.conv.weight"]
        weights = F.conv1d(y.mean((2, 3))[:, None], kernel, padding=kernel.shape[-1] // 2)[:, 0]
        y = y * torch.sigmoid(weights)[:, :, None, None]
        return torch.relu(y + self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, stride)))

    def pyramid(self, x, retina):
        stages = self.stages(x)[1:] if retina else self.stages(x)
        inner = [self.conv(f"neck.lateral_convs.{i}.conv", stage) for i, stage in enumerate(stages)]
        for i in range(len(inner) - 1, 0, -1):
            inner[i - 1] = inner[i - 1] + F.interpolate(inner[i], scale_factor=2, mode="nearest")
        levels = [self.conv(f"neck.fpn_convs.{i}.conv", x) for i, x in enumerate(inner)]
        if not retina:
            return [*levels, F.max_pool2d(levels[-1], 1, stride=2)]
        p6 = self.conv("neck.fpn_convs.3.conv", stages[-1], 2)
        return [*levels, p6, self.conv("neck.fpn_convs.4.conv", p6, 2)]


def anchors(stride, scales, rows, columns):
    ratios = np.sqrt(np.array([0.5, 1.0, 2.0]))
    widths = (stride / ratios[:, None] * np.array(scales)[None]).ravel()
    heights = (stride * ratios[:, None] * np.array(scales)[None]).ravel()
    centre = 0.5 * (stride - 1)
    x, y = 0.5 * (widths - 1), 0.5 * (heights - 1)
    cell = np.round(np.stack([centre - x, centre - y, centre + x, centre + y], axis=1))
    shifts = [[j * stride, i * stride, j * stride, i * stride] for i in range(rows) for j in range(columns)]
    return (np.array(shifts)[:, None] + cell[None]).reshape(-1, 4).astype(np.float32)


def delta2bbox(rois, deltas, size, stds=(1, 1, 1, 1)):
    dx, dy, dw, dh = (deltas * np.array(stds, np.float32)).T
    limit = abs(np.log(16 / 1000))
    dw, dh = np.clip(dw, -limit, limit), np.clip(dh, -limit, limit)
    width, height = rois[:, 2] - rois[:, 0] + 1, rois[:, 3] - rois[:, 1] + 1
    x, y = (rois[:, 0] + rois[:, 2]) * 0.5 + width * dx, (rois[:, 1] + rois[:, 3]) * 0.5 + height * dy
    width, height = width * np.exp(dw), height * np.exp(dh)
    boxes = np.stack([x - width / 2 + 0.5, y - height / 2 + 0.5, x + width / 2 - 0.5, y + height / 2 - 0.5], axis=1)
    return np.clip(boxes, 0, np.array([size[1] - 1, size[0] - 1] * 2)).astype(np.float32)


def overlaps(a, b):
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.maximum(high - low + 1, 0)
    shared = side[..., 0] * side[..., 1]
    area_a, area_b = ((v[:, 2] - v[:, 0] + 1) * (v[:, 3] - v[:, 1] + 1) for v in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared)


def nms(boxes, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        kept.append(order[0])
        order = order[1:][overlaps(boxes[order[:1]], boxes[order[1:]])[0] <= threshold]
    return np.array(kept, int)


def proposals(network, levels, size, before=1000, after=1000):
    boxes, scores = [], []
    for level, stride in zip(levels, RPN_STRIDES, strict=True):
        hidden = torch.relu(network.conv("rpn_head.rpn_conv", level))
        score = torch.sigmoid(network.conv("rpn_head.rpn_cls", hidden))[0].permute(1, 2, 0).reshape(-1).numpy()
        delta = network.conv("rpn_head.rpn_reg", hidden)[0].permute(1, 2, 0).reshape(-1, 4).numpy()
        best = np.argsort(-score, kind="stable")[:before]
        box = delta2bbox(anchors(stride, [8], *level.shape[2:])[best], delta[best], size)
        kept = nms(box, score[best], 0.7)[:after]
        boxes.append(box[kept])
        scores.append(score[best][kept])
    boxes, scores = np.concatenate(boxes), np.concatenate(scores)
    return boxes[np.argsort(-scores, kind="stable")[:after]]


def roi_align(level, box, scale, size):
    """[C, size, size] of one box, sample by sample."""
    height, width = level.shape[1:]
    x1, y1, x2, y2 = box[0] * scale, box[1] * scale, (box[2] + 1) * scale, (box[3] + 1) * scale
    bins = [max(y2 - y1, 0) / size, max(x2 - x1, 0) / size]

    def places(start, step, limit):
        p = start + step * (np.arange(2 * size) + 0.5) / 2
        outside = (p < -1) | (p > limit)
        p = np.maximum(p, 0)
        low = np.minimum(p.astype(int), limit - 1)
        return low, np.minimum(low + 1, limit - 1), np.where(low >= limit - 1, 0, p - low), outside

    (y0, y1, fy, y_out), (x0, x1, fx, x_out) = places(y1, bins[0], height), places(x1, bins[1], width)
    fy = fy[:, None]
    values = (level[:, y0[:, None], x0] * (1 - fy) + level[:, y1[:, None], x0] * fy) * (1 - fx) + (
        level[:, y0[:, None], x1] * (1 - fy) + level[:, y1[:, None], x1] * fy
    ) * fx
    values = values * ~(y_out[:, None] | x_out)
    return values.reshape(-1, size, 2, size, 2).mean((2, 4))


def crops(levels, boxes, size):
    side = np.sqrt((boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1))
    numbers = np.clip(np.floor(np.log2(side / 56 + 1e-6)), 0, 3).astype(int)
    maps = [level[0].numpy() for level in levels]
    found = [roi_align(maps[n], box, 1 / RPN_STRIDES[n], size) for n, box in zip(numbers, boxes, strict=True)]
    return torch.tensor(np.stack(found), dtype=torch.float32)


def multiclass_nms(boxes, scores, limit=100):
    """`scores` [K, 1 + C], the background first; `boxes` [K, 4] or [K, 4 * (1 + C)]; labels from 1."""
    found, labels = [], []
    for label in range(1, scores.shape[1]):
        chosen = scores[:, label] > 0.05
        box = boxes[chosen] if boxes.shape[1] == 4 else boxes[chosen, 4 * label : 4 * label + 4]
        score = scores[chosen, label]
        kept = nms(box, score, 0.5)
        found.append(np.concatenate([box[kept], score[kept, None]], axis=1).reshape(-1, 5))
        labels.append(np.full(len(kept), label))
    found, labels = np.concatenate(found), np.concatenate(labels)
    best = np.argsort(-found[:, 4], kind="stable")[:limit]
    return found[best, :4], found[best, 4], labels[best]


@torch.no_grad()
def mask_rcnn(tensors, image, size, before=1000, after=1000):
    """Boxes, scores, labels and masks [K, 28, 28] of a normalised image float32 [1, 3, H, W], padded, of `size`."""
    network = Network(tensors)
    levels = network.pyramid(image, retina=False)
    rois = proposals(network, levels, size, before, after)
    hidden = crops(levels, rois, 7).reshape(len(rois), -1)
    for i in range(2):
        hidden = torch.relu(network.linear(f"bbox_head.shared_fcs.{i}", hidden))
    scores = torch.softmax(network.linear("bbox_head.fc_cls", hidden), dim=1).numpy()
    deltas = network.linear("bbox_head.fc_reg", hidden).numpy()
    classes = scores.shape[1]
    boxes = delta2bbox(np.repeat(rois, classes, axis=0), deltas.reshape(-1, 4), size, (0.1, 0.1, 0.2, 0.2))
    boxes, scores, labels = multiclass_nms(boxes.reshape(-1, 4 * classes), scores)
    x = crops(levels, boxes, 14)
    for i in range(4):
        x = torch.relu(network.conv(f"mask_head.convs.{i}.conv", x))
    upsample = [network.tensors[f"mask_head.upsample.{part}"] for part in ("weight", "bias")]
    x = torch.relu(F.conv_transpose2d(x, *upsample, stride=2))
    masks = torch.sigmoid(network.conv("mask_head.conv_logits", x)).numpy()[range(len(labels)), labels]
    return boxes, scores, labels, masks


@torch.no_grad()
def retinanet(tensors, image, size):
    """Boxes, scores and labels, as `mask_rcnn`."""
    network = Network(tensors)
    scales = [4 * 2 ** (third / 3) for third in range(3)]
    boxes, scores = [], []
    for level, stride in zip(network.pyramid(image, retina=True), RETINA_STRIDES, strict=True):
        towers = []
        for kind in ("cls", "reg"):
            x = level
            for i in range(4):
                x = torch.relu(network.conv(f"bbox_head.{kind}_convs.{i}.conv", x))
            towers.append(network.conv(f"bbox_head.retina_{kind}", x)[0].permute(1, 2, 0))
        score = torch.sigmoid(towers[0]).reshape(len(anchors(stride, scales, *level.shape[2:])), -1).numpy()
        best = np.argsort(-score.max(axis=1), kind="stable")[:1000]
        cells = anchors(stride, scales, *level.shape[2:])
        boxes.append(delta2bbox(cells[best], towers[1].reshape(-1, 4).numpy()[best], size))
        scores.append(score[best])
    scores = np.concatenate(scores)
    background = np.zeros((len(scores), 1), np.float32)
    return multiclass_nms(np.concatenate(boxes), np.concatenate([background, scores], axis=1))


def assigned(truths, boxes, positive, negative, least):
    """`MaxIoUAssigner`: for each box the number of its object, -1 for background, -2 for ignored."""
    table = overlaps(truths, boxes)
    result = np.full(len(boxes), -2)
    best = table.max(axis=0)
    result[best < negative] = -1
    result[best >= positive] = table.argmax(axis=0)[best >= positive]
    for number, row in enumerate(table):
        if row.max() >= least:
            result[row == row.max()] = number
    return result
