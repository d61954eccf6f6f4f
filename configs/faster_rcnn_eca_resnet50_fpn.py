"""Faster R-CNN with an ECA-ResNet-50 on COCO, the paper's schedule: 12 epochs, 8 images at 0.01, from ImageNet weights.

    eca-jax train faster_rcnn_eca_resnet50_fpn --workdir=gs://BUCKET/faster --config.data_dir=COCO --config.init_from=W

ResNet-101: --config.model=faster_rcnn_eca_resnet101_fpn. The paper: box AP 38.0 (ResNet-50) and 40.3 (ResNet-101). Not
trained here.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.task = "detection"
    config.model = "faster_rcnn_eca_resnet50_fpn"
    config.num_classes = 81
    config.dataset = "coco"
    config.dtype = "bfloat16"
    config.detection.canvas = (800, 1344)  # upright images lie on one of 1344 by 800
    config.bn_group_size = 0
    config.batch_size = 8
    config.num_epochs = 12
    config.learning_rate = 0.01
    config.schedule.decay_epochs = 8
    config.schedule.warmup_epochs = 0.034  # 500 steps
    config.optimizer.max_norm = 35.0
    # Stem and first stage stay as they are; the other stages' BatchNorm trains its scale and bias.
    config.optimizer.frozen = ("body/(conv1|bn1|layer1_)",)
    return config
