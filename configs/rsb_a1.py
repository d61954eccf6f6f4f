"""ECA-ResNet-50-T by "ResNet strikes back", procedure A1: 600 epochs at 224 pixels.

    eca-jax train rsb_a1 --workdir=runs/rsb_a1 --config.data_dir=DIR

Reported elsewhere: ResNet-50 80.4% (Wightman et al., 2021, table 2) and 80.12% (mmpretrain); timm's
ecaresnet50t.a1_in1k 81.28% at 224, 82.11% at 288. Not trained here.

Hardware: as `rsb_a2`, twice its time. Over it: 600 epochs, half the weight decay, smoothed labels, more Mixup.
"""

import ml_collections

from eca_jax.config import load_recipe


def get_config() -> ml_collections.ConfigDict:
    config = load_recipe("rsb_a2")
    config.num_epochs = 600
    config.label_smoothing = 0.1
    config.mix.mixup = 0.2
    config.optimizer.weight_decay = 0.01
    return config
