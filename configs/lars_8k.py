"""ECA-ResNet-50 with LARS in batches of 8,192: Google's point of MLPerf training for a ResNet-50 on TPUs.

    eca-jax train lars_8k --workdir=runs/lars_8k --config.data_dir=DIR

Reported elsewhere: ResNet-50 reaches 75.9% in 42 epochs (MLCommons' reference convergence points, ResNet 2.0). Not
trained here, nor with attention there.

Hardware: 64 chips of 128 images. `eca-jax plan lars_8k v5e:8x8` estimates the time.

The rate grows for 5 epochs to 17 and falls with the square of what is left over the 6,095 steps after it (39 epochs) to
1e-4; it multiplies what goes into the momentum. BatchNorm's parameters and biases neither decay nor adapt. Statistics
are of 64 images.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "eca_resnet50"
    config.dtype = "bfloat16"
    config.batch_size = 8192
    config.num_epochs = 44
    config.learning_rate = 17.0
    config.label_smoothing = 0.1
    config.optimizer.name = "lars"
    config.optimizer.rate_in_momentum = True
    config.optimizer.weight_decay = 2e-4
    config.optimizer.decay_kernels_only = True
    config.schedule.name = "polynomial"
    config.schedule.power = 2.0
    config.schedule.warmup_epochs = 5.0
    config.schedule.min_rate = 1e-4
    config.eval_every_epochs = 4
    return config
