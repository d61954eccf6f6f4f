"""RetinaNet with an ECA-ResNet-50 on COCO, the paper's schedule: 12 epochs, 8 images at 0.01, from ImageNet weights.

    eca-jax train retinanet_eca_resnet50_fpn --workdir=gs://BUCKET/retinanet --config.data_dir=COCO --config.init_from=W

ResNet-101: --config.model=retinanet_eca_resnet101_fpn.
The paper: box AP 37.3 (ResNet-50) and 39.1 (ResNet-101). Not trained here.
"""

import ml_collections

from eca_jax.config import load_recipe


def get_config() -> ml_collections.ConfigDict:
    config = load_recipe("faster_rcnn_eca_resnet50_fpn")
    config.model = "retinanet_eca_resnet50_fpn"
    return config
