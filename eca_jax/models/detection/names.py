"""What torchvision and mmdetection 1 call the detectors' parts: (pattern, replacement) for the paths of modules.

The rules of the backbone's own family come first (`under_body`); the backbone lies at `body/`.
"""

from eca_jax.models.naming import Naming, Rule, Rules

Pairs = tuple[tuple[str, str], ...]

_ROI = (
    (r"^box_(head|predictor)/", r"roi_heads/box_\1/"),
    (r"^mask_predictor/deconv$", r"roi_heads/mask_predictor/conv5_mask"),
    (r"^mask_predictor/logits$", r"roi_heads/mask_predictor/mask_fcn_logits"),
)
_TORCHVISION = (
    (r"^body/", r"backbone/body/"),
    (r"^fpn/(p6|p7)$", r"backbone/fpn/extra_blocks/\1"),
    (r"^rpn/(cls_logits|bbox_pred)$", r"rpn/head/\1"),
    (r"^head/cls_logits$", r"head/classification_head/cls_logits"),
    (r"^head/bbox_reg$", r"head/regression_head/bbox_reg"),
    *_ROI,
)
# As torchvision names them now: every convolution is the first of a Sequential.
TORCHVISION: Pairs = (
    *_TORCHVISION,
    (r"^fpn/(inner|layer)_(\d)$", r"backbone/fpn/\1_blocks/\2/0"),
    (r"^rpn/conv_(\d)$", r"rpn/head/conv/\1/0"),
    (r"^mask_head/conv_(\d)$", r"roi_heads/mask_head/\1/0"),
    (r"^head/cls_conv_(\d)$", r"head/classification_head/conv/\1/0"),
    (r"^head/reg_conv_(\d)$", r"head/regression_head/conv/\1/0"),
)
# As the published files have them.
TORCHVISION_V1: Pairs = (
    *_TORCHVISION,
    (r"^fpn/(inner|layer)_(\d)$", r"backbone/fpn/\1_blocks/\2"),
    (r"^rpn/conv_0$", r"rpn/head/conv"),
    *((rf"^mask_head/conv_{i}$", rf"roi_heads/mask_head/mask_fcn{i + 1}") for i in range(4)),
    *((rf"^head/cls_conv_{i}$", rf"head/classification_head/conv/{2 * i}") for i in range(4)),
    *((rf"^head/reg_conv_{i}$", rf"head/regression_head/conv/{2 * i}") for i in range(4)),
)
MMDET1: Pairs = (
    (r"^body/", r"backbone/"),
    (r"^fpn/inner_(\d)$", r"neck/lateral_convs/\1/conv"),
    (r"^fpn/layer_(\d)$", r"neck/fpn_convs/\1/conv"),
    (r"^fpn/p6$", r"neck/fpn_convs/3/conv"),
    (r"^fpn/p7$", r"neck/fpn_convs/4/conv"),
    (r"^rpn/conv_0$", r"rpn_head/rpn_conv"),
    (r"^rpn/cls_logits$", r"rpn_head/rpn_cls"),
    (r"^rpn/bbox_pred$", r"rpn_head/rpn_reg"),
    (r"^box_head/fc6$", r"bbox_head/shared_fcs/0"),
    (r"^box_head/fc7$", r"bbox_head/shared_fcs/1"),
    (r"^box_predictor/cls_score$", r"bbox_head/fc_cls"),
    (r"^box_predictor/bbox_pred$", r"bbox_head/fc_reg"),
    (r"^mask_head/conv_(\d)$", r"mask_head/convs/\1/conv"),
    (r"^mask_predictor/deconv$", r"mask_head/upsample"),
    (r"^mask_predictor/logits$", r"mask_head/conv_logits"),
    (r"^head/(cls|reg)_conv_(\d)$", r"bbox_head/\1_convs/\2/conv"),
    (r"^head/cls_logits$", r"bbox_head/retina_cls"),
    (r"^head/bbox_reg$", r"bbox_head/retina_reg"),
)


def naming(backbone: Rules) -> Naming:
    """Of detectors on a backbone with these rules."""
    body = under_body(backbone)
    formats = {"torchvision_detection": TORCHVISION, "torchvision_detection_v1": TORCHVISION_V1, "mmdet1": MMDET1}
    return Naming(
        {name: (*body, *(Rule(*pair) for pair in pairs)) for name, pairs in formats.items()},
        classifier="",  # `Detector.classes_of` knows the layers whose outputs are of classes
        place=r"body/(layer|stages_|features_)\d+",
        stages=(),
    )


def under_body(rules: Rules) -> Rules:
    """The rules of a family for the same modules below `body/`."""
    return tuple(
        rule._replace(pattern=f"^body/{rule.pattern[1:]}", replacement=f"body/{rule.replacement}")
        if rule.pattern.startswith("^")
        else rule
        for rule in rules
    )
