"""What differs between the originals of the detectors, as data: torchvision's first version, and mmdetection 1."""

import dataclasses
from typing import Literal

Four = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Every convention and number in which two implementations of one detector differ.

    Attributes:
      name: of the preset.
      offset: a box is x2 - x1 + `offset` wide; mmdetection 1 counts the last pixel, in IoU, coder and levels alike.
      clamp_below: whether the sizes' deltas are clamped on both sides, and not above only.
      anchors: "corner" places cell anchors at the corner of the cell by a stride of padded size // grid, "centre" at
        its centre by the level's power of two.
      rpn_scale: sizes of the RPN's anchors over the level's stride.
      rpn_before, rpn_after: boxes of a level before NMS, and boxes of an image after it, at inference.
      rpn_before_train, rpn_after_train: the same in training.
      rpn_size: smallest width and height of a proposal.
      rpn_nms: IoU above which a box suppresses another of its level.
      rpn_positive, rpn_negative: IoU from which an anchor is an object, and below which it is background.
      rpn_inside: whether only anchors inside the image are trained.
      best_to_own: whether an object's best anchors are matched to that object, and not to their own best one.
      rpn_least, retina_least, box_least: IoU that an object's best box must have to be matched below the threshold;
        None matches no such boxes.
      rpn_samples, rpn_share, box_samples, box_share: boxes of an image that are trained, and the most that may be
        objects.
      mask_samples: objects of an image whose masks are trained, at most; None is all that are sampled.
      box_weights: of the box head's coder.
      box_beta, retina_beta: of the smooth L1 losses; 0 is L1.
      retina_positive, retina_negative: as those of the RPN.
      retina_per_image: whether RetinaNet's losses are divided by the objects of each image, and not of the batch.
      score, nms, box_size: least score, IoU and least width and height of a detection.
      detections, retina_detections: of an image, at most.
      retina_before: candidates of a level before NMS.
      retina_pairs: whether these are pairs of anchor and class, and not anchors with all their classes.
      retina_background: whether RetinaNet has a column for the background, class 0, which is never a target.
      retina_octaves: whether the three anchor sizes of a level are rounded down to integers.
      p6_from: "P5" or "C5", which RetinaNet's P6 is made of.
      p7_relu: whether a ReLU stands between P6 and P7.
      roi_least: least width and height of a region on the feature map.
      level_inside: whether the level's 1e-6 stands inside the logarithm.
      mask_ring: whether a mask is pasted with a ring of zeros around it.
      rounded: whether images are resized to the nearest size, as bytes, and boxes by one factor for both axes; not to
        the size below, normalised, and boxes by the sizes' own ratios.
      epsilon: of the backbone's BatchNorm; torchvision runs its published weights with 0.
    """

    name: str
    offset: float = 0.0
    clamp_below: bool = False
    anchors: Literal["corner", "centre"] = "corner"
    rpn_scale: float = 8.0
    rpn_before: int = 1000
    rpn_after: int = 1000
    rpn_before_train: int = 2000
    rpn_after_train: int = 2000
    rpn_size: float = 1e-3
    rpn_nms: float = 0.7
    rpn_positive: float = 0.7
    rpn_negative: float = 0.3
    rpn_inside: bool = False
    best_to_own: bool = False
    rpn_least: float | None = 0.0
    retina_least: float | None = 0.0
    box_least: float | None = None
    rpn_samples: int = 256
    rpn_share: float = 0.5
    box_samples: int = 512
    box_share: float = 0.25
    box_positive: float = 0.5
    mask_samples: int | None = None
    box_weights: Four = (10.0, 10.0, 5.0, 5.0)
    box_beta: float = 1 / 9
    retina_beta: float = 0.0
    retina_positive: float = 0.5
    retina_negative: float = 0.4
    retina_per_image: bool = True
    score: float = 0.05
    nms: float = 0.5
    box_size: float = 1e-2
    detections: int = 100
    retina_detections: int = 300
    retina_before: int = 1000
    retina_pairs: bool = True
    retina_background: bool = True
    retina_octaves: bool = True
    p6_from: Literal["P5", "C5"] = "P5"
    p7_relu: bool = True
    roi_least: float = 1.0
    level_inside: bool = False
    mask_ring: bool = True
    rounded: bool = False
    epsilon: float = 1e-5


TORCHVISION = Rules("torchvision")
# The published COCO_V1 weights: torchvision sets their frozen BatchNorm's epsilon to 0 when it loads them.
TORCHVISION_V1 = dataclasses.replace(TORCHVISION, name="torchvision_v1", epsilon=0.0)
MMDET1 = Rules(
    "mmdet1",
    offset=1.0,
    clamp_below=True,
    anchors="centre",
    rpn_size=0.0,
    rpn_inside=True,
    best_to_own=True,
    rpn_least=0.3,
    box_least=0.5,
    box_beta=1.0,
    retina_beta=0.11,
    retina_per_image=False,
    box_size=0.0,
    retina_detections=100,
    retina_pairs=False,
    retina_background=False,
    retina_octaves=False,
    p6_from="C5",
    p7_relu=False,
    roi_least=0.0,
    level_inside=True,
    mask_ring=False,
    rounded=True,
)
PRESETS = {rules.name: rules for rules in (TORCHVISION, TORCHVISION_V1, MMDET1)}


def rules(name: str) -> Rules:
    """The preset of that name. Raises ValueError for an unknown one."""
    if name not in PRESETS:
        raise ValueError(f"rules must be one of {', '.join(PRESETS)}, not {name!r}")
    return PRESETS[name]
