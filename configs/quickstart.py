"""A small ECA-ResNet learns 1,437 real handwritten digits (scikit-learn's) and is tested on 360 others.

    eca-jax train quickstart --workdir=runs/quickstart

The same program that trains on ImageNet, on data that needs no download: digits light on dark. The network is
ECA-ResNet-18 with one block a stage instead of two. On two CPU cores: 2 min 23 s, best validation top-1 99.17%.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "eca_resnet18"
    config.model_overrides.small_images = True
    config.model_overrides.stage_sizes = (1, 1, 1, 1)
    config.num_classes = 10
    config.dataset = "digits"
    config.image_size = 24
    config.crop_pct = 1.0
    config.crop_scale = (0.6, 1.0)
    config.flip = False  # a mirrored digit is no digit
    config.bn_group_size = 0
    config.batch_size = 32
    config.num_epochs = 8
    config.learning_rate = 0.05
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    config.log_every_steps = 22
    config.checkpoint_every_steps = 0
    return config
