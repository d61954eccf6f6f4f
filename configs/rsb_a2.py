"""ECA-ResNet-50-T by "ResNet strikes back", procedure A2: 300 epochs at 224 pixels.

    eca-jax train rsb_a2 --workdir=runs/rsb_a2 --config.data_dir=DIR

Reported elsewhere: ResNet-50 79.8% (Wightman et al., 2021, table 2) and 79.55% (mmpretrain); timm's
ecaresnet50t.a2_in1k 80.88% at 224. Not trained here.

Hardware: as `rsb_a3`; `eca-jax plan rsb_a2 v5e:4x4` estimates 71 ms a step, 3.7 hours before communication. Over
`rsb_a3`: the whole size, three times as long, stochastic depth, and repeated augmentation, whose batches show each
image three times: an epoch of as many steps meets a third of the images.
"""

import ml_collections

from eca_jax.config import load_recipe


def get_config() -> ml_collections.ConfigDict:
    config = load_recipe("rsb_a3")
    config.image_size = 224
    config.augment = "rand-m7-mstd0.5-inc1"
    config.repeated_augmentation = 3
    config.model_overrides.drop_path = 0.05
    config.num_epochs = 300
    config.learning_rate = 5e-3
    return config
