"""ECA-ResNet-50 with LARS in batches of 32,768: Google's point of MLPerf training for large slices.

    eca-jax train lars_32k --workdir=runs/lars_32k --config.data_dir=DIR

Reported elsewhere: ResNet-50 reaches 75.9% in 56 epochs (MLCommons' reference convergence points, ResNet 2.0). Not
trained here, nor with attention there.

Hardware: 256 chips of 128 images. `eca-jax plan lars_32k v5e:16x16` estimates the time.

Over `lars_8k`: the rate grows for 16 epochs to 21.2, momentum 0.94, weight decay 2.5e-5, statistics of 128 images. The
2,267 steps of the decay are taken from the run's beginning, 58 epochs.
"""

import ml_collections

from eca_jax.config import load_recipe


def get_config() -> ml_collections.ConfigDict:
    config = load_recipe("lars_8k")
    config.batch_size = 32768
    config.bn_group_size = 128
    config.num_epochs = 58
    config.learning_rate = 21.2
    config.optimizer.momentum = 0.94
    config.optimizer.weight_decay = 2.5e-5
    config.schedule.warmup_epochs = 16.0
    return config
