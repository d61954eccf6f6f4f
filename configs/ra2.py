"""ECA-ResNet-26-T as the author of timm trained its ECA family ("ra2"): RMSProp, RandAugment, a long average.

    eca-jax train ra2 --workdir=runs/ra2 --config.data_dir=DIR
    eca-jax train ra2 --workdir=runs/ra2_33 --config.data_dir=DIR --config.model=eca_resnet33ts

Reported elsewhere: timm's ecaresnet26t.ra2_in1k, 78.89% at 256 pixels and 79.90% at 320 (timm's results). Not trained
here.

Hardware: 704 images a batch, two GPUs of 352 in the author's published command line for ecaresnet26d; here 8 devices of
88. `eca-jax plan ra2 v5e:2x4` estimates the time.

Of that command line are the batch, the rate, its decay and its noise, the length, Mixup, stochastic depth, dropout,
RandAugment and the average's decay. Weight decay, warm-up, smoothing and the average's warm-up are those of timm's
documentation for such recipes.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "ecaresnet26t"
    config.model_overrides.drop_path = 0.1
    config.model_overrides.dropout = 0.19
    config.dtype = "bfloat16"
    config.image_size = 256
    config.augment = "rand-m9-mstd1.0-inc1"
    config.mix.mixup = 0.19
    config.batch_size = 704
    config.bn_group_size = 88
    config.num_epochs = 710
    config.learning_rate = 0.082
    config.label_smoothing = 0.1
    config.optimizer.name = "rmsprop_tf"
    config.optimizer.weight_decay = 1e-5
    config.optimizer.decay_kernels_only = True
    config.schedule.form = "timm"
    config.schedule.decay_epochs = 1.0
    config.schedule.decay_rate = 0.988
    config.schedule.warmup_epochs = 3.0
    config.schedule.warmup_rate = 1e-6
    config.schedule.cooldown_epochs = 10.0
    config.schedule.min_rate = 1e-5
    config.schedule.noise = (0.4, 0.9)
    config.ema_decay = 0.999987
    config.ema_warmup = "timm"
    return config
