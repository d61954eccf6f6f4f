"""The detectors by name: RetinaNet, Faster and Mask R-CNN on the paper's backbones."""

from eca_jax.models.detection.rcnn import FasterRCNN, MaskRCNN
from eca_jax.models.detection.retinanet import RetinaNet

KINDS = {"retinanet": RetinaNet, "faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}
