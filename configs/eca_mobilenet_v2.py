"""ECA-MobileNetV2 on ImageNet, the recipe of the ECA-Net paper.

    eca-jax train eca_mobilenet_v2 --workdir=runs/eca_mobilenet_v2 --config.data_dir=DIR

The paper reports 72.56% top-1, 90.81% top-5; MobileNetV2 without attention: 71.64%.

SGD with momentum 0.9 and weight decay 4e-5 on every parameter, 400 epochs of batch 96, learning rate 0.045 multiplied
by 0.98 every epoch, dropout 0.25. On a TPU slice `--config.dtype=bfloat16` and a larger batch with a proportionally
larger learning rate keep the devices busy; `--dry_run=v5litepod-16` says, without any TPU, what to expect.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "eca_mobilenet_v2"
    config.bn_group_size = 0  # the paper does not say how many GPUs shared the 96 images
    config.batch_size = 96
    config.num_epochs = 400
    config.learning_rate = 0.045
    config.schedule.decay_epochs = 1
    config.schedule.decay_rate = 0.98
    config.optimizer.weight_decay = 4e-5
    return config
