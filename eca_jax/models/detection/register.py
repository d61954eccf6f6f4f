"""The detectors by name: RetinaNet, Faster and Mask R-CNN on the paper's backbones."""

from functools import partial

from eca_jax.models import mobilenet_v2, resnet
from eca_jax.models.detection.names import naming
from eca_jax.models.detection.rcnn import FasterRCNN, MaskRCNN
from eca_jax.models.detection.retinanet import RetinaNet
from eca_jax.models.inputs import Preprocessing
from eca_jax.models.registry import register

KINDS = {"retinanet": RetinaNet, "faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}

# An image's short side becomes 800 pixels, its long one at most 5/3 of that.
PREPROCESSING = Preprocessing(image_size=800, crop_pct=1.0)
# Of the release's detectors, by stage; they were trained from other weights than the release's.
KERNEL_SIZES = {
    ("faster_rcnn", 50): (5, 5, 5, 5),
    ("mask_rcnn", 50): (3, 3, 7, 7),
    ("retinanet", 50): (3, 3, 7, 7),
}

# Of every backbone with PyTorch names of its own.
NAMING = naming((*resnet.NAMING.rules("ecanet"), *mobilenet_v2.NAMING.rules("ecanet")))

for _kind, _detector in KINDS.items():
    for _depth in (50, 101):
        _sizes = KERNEL_SIZES.get((_kind, _depth), (3, 3, 5, 7))
        _original = partial(_detector, num_classes=81, rules="mmdet1")
        for _prefix, _build, _format in (
            ("", _detector, "torchvision_detection"),
            ("eca_", partial(_original, kernel_sizes=_sizes), "mmdet1"),
            ("se_", _original, "mmdet1"),
        ):
            _backbone = f"{_prefix}resnet{_depth}"
            register(
                f"{_kind}_{_backbone}_fpn",
                partial(_build, backbone=_backbone),
                weights_format=_format,
                naming=NAMING,
                preprocessing=PREPROCESSING,
                task="detection",
            )
