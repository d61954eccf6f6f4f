"""ECA-ResNet-50-T by "ResNet strikes back", procedure A3: 100 epochs at 160 pixels, judged at 224.

    eca-jax train rsb_a3 --workdir=runs/rsb_a3 --config.data_dir=DIR

Reported elsewhere: ResNet-50 78.1% (Wightman et al., 2021, table 2) and 78.30% (mmpretrain); timm's
ecaresnet50t.a3_in1k 79.55% at 224. Not trained here.

Hardware: batch 2048, so 16 chips of 128 images, or 4 GPUs of 512; on fewer, `--config.microbatches=2` and on. Half the
work of 100 epochs at 224. `eca-jax plan rsb_a3 v5e:4x4` estimates the time on a slice without one.

LAMB, binary cross-entropy with Mixup and CutMix, RandAugment. It differs from timm's run in this: lambda is drawn for
groups of 128 images, which share BatchNorm's statistics too, and not for each GPU's 512. On chips of fewer images lower
`--config.bn_group_size`, so that a group lies on one.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "ecaresnet50t"
    config.dtype = "bfloat16"
    config.image_size = 160
    config.eval_image_size = 224
    config.crop_pct = 0.95
    config.augment = "rand-m6-mstd0.5-inc1"
    config.mix.mixup = 0.1
    config.mix.cutmix = 1.0
    config.loss.name = "binary"
    config.loss.threshold = 0.2
    config.batch_size = 2048
    config.bn_group_size = 128
    config.num_epochs = 100
    config.learning_rate = 8e-3
    config.optimizer.name = "lamb"
    config.optimizer.weight_decay = 0.02
    config.optimizer.decay_kernels_only = True
    config.schedule.name = "cosine"
    config.schedule.form = "timm"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_rate = 1e-4
    config.schedule.min_rate = 1e-6
    return config
