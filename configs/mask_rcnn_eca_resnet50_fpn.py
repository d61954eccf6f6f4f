"""Mask R-CNN with an ECA-ResNet-50 on COCO, the paper's schedule: 12 epochs, 8 images at 0.01, from ImageNet weights.

    eca-jax train mask_rcnn_eca_resnet50_fpn --workdir=gs://BUCKET/mask --config.data_dir=COCO --config.init_from=W

ResNet-101: --config.model=mask_rcnn_eca_resnet101_fpn.
The paper: box AP 39.0 (ResNet-50) and 41.3 (ResNet-101), mask AP 35.6 and 37.4. Not trained here.
"""

import ml_collections

from eca_jax.config import load_recipe


def get_config() -> ml_collections.ConfigDict:
    config = load_recipe("faster_rcnn_eca_resnet50_fpn")
    config.model = "mask_rcnn_eca_resnet50_fpn"
    return config
