"""ECA-ResNet-50-D trained like ResNet-RS (Bello et al., NeurIPS 2021) on TPUs: 350 epochs of batch 4096.

    eca-jax train resnet_rs --workdir=runs/rs --config.data_dir=DIR

Reported elsewhere: ResNet-RS-50, of squeeze-and-excitation at 160 pixels, 78.8% (the authors' release). This network
and size were not trained by them, nor here.

Hardware: batch 4096, 32 TPU chips of 128. `eca-jax plan resnet_rs v5e:4x8` estimates the time.

Like it are optimiser, rate, length, weight decay, smoothing, RandAugment, dropout and the average.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "ecaresnet50d"
    config.model_overrides.dropout = 0.25
    config.dtype = "bfloat16"
    config.augment = "rand-m10-n2-p1.0"
    config.batch_size = 4096
    config.num_epochs = 350
    config.learning_rate = 1.6
    config.label_smoothing = 0.1
    config.optimizer.weight_decay = 4e-5
    config.optimizer.decay_kernels_only = True
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 5.0
    config.ema_decay = 0.9999
    return config
