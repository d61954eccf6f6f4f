"""ECA-ResNet-50 by the recipe of torchvision's second weights ("V2"): 600 epochs at 176 pixels, judged at 224.

    eca-jax train torchvision_v2 --workdir=runs/v2 --config.data_dir=DIR

Reported elsewhere: torchvision's ResNet-50 80.858% (IMAGENET1K_V2, its documentation). Not trained here with attention.

Hardware: batch 1024, 8 GPUs of 128 there. `eca-jax plan torchvision_v2 v5e:2x4` estimates the time.

The average follows each step here and every 32 steps there: 0.99998 is 0.998908 of 32 steps of this batch and length,
0.9999659 of one. Mixup's partners are a group's in reverse here, the next in the batch there.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "eca_resnet50"
    config.dtype = "bfloat16"
    config.image_size = 176
    config.eval_image_size = 224
    config.crop_pct = 0.9655  # 232 pixels
    config.augment = "ta_wide"
    config.repeated_augmentation = 4
    config.mix.mixup = 0.2
    config.mix.cutmix = 1.0
    config.mix.group = 128
    config.erase.probability = 0.1
    config.erase.fill = "mean"
    config.batch_size = 1024
    config.bn_group_size = 128
    config.num_epochs = 600
    config.learning_rate = 0.5
    config.label_smoothing = 0.1
    config.optimizer.weight_decay = 2e-5
    config.optimizer.decay_kernels_only = True
    config.schedule.name = "cosine"
    config.schedule.form = "epoch"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_rate = 0.005
    config.ema_decay = 0.9999659
    config.ema_warmup = "none"
    return config
