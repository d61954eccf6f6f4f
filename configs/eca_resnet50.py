"""ECA-ResNet-50 on ImageNet, the recipe of the ECA-Net paper.

    eca-jax train eca_resnet50 --workdir=runs/eca_resnet50 --config.data_dir=DIR

The paper reports 77.48% top-1, 93.68% top-5 (the released weights 77.42%, 93.62%); ResNet-50 without attention: 75.20%.

SGD with momentum 0.9 and weight decay 1e-4 on every parameter, 100 epochs of batch 256, learning rate 0.1 divided by
10 every 30 epochs, BatchNorm statistics over 64 images: 4 GPUs with 64 images each. On a TPU slice, or to use more
devices, larger batches keep them busy; the linear scaling rule then asks for (not the paper's recipe):

    --config.dtype=bfloat16 --config.batch_size=1024 --config.learning_rate=0.4 --config.schedule.warmup_epochs=5

`--dry_run=v5litepod-16` says, without any TPU, whether that fits and how long an epoch would take.
"""

import ml_collections

import eca_jax


def get_config() -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.model = "eca_resnet50"
    return config
