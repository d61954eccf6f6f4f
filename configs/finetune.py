"""Photographs of one's own, a directory a class, to a working model.

    eca-jax train finetune --data_dir=PHOTOS --workdir=W --init_from=WEIGHTS

PHOTOS holds CLASS/*, of which a fifth of each class is kept for validation by a hash of the files' names, or
train/CLASS/* and val/CLASS/*. The model, its options and its image size are those of WEIGHTS (a workdir, a weights
directory, a PyTorch file, which may need --config.model=NAME); the classifier is new, and learns ten times as fast as
the rest. Pictures are turned upright as cameras noted down. The run ends after 10 epochs without a better validation.

Without --init_from a small ECA-ResNet learns from nothing, at 96 pixels: enough for textures, colours and signs. On two
CPU cores (AMD EPYC, shared with other jobs): `scripts/photos.py DIR`, 5 classes x 60, all of 59 validation images right
in 3 min 8 s, report included; `scripts/photos.py DIR --digits`, 1,797 images, 97.55% of 368 after epoch 6 (about 4 min)
and 99.73% as the best, after epoch 18.
"""

import ml_collections
from ml_collections.config_dict import placeholder

import eca_jax

CLASSIFIERS = "(fc|head|classifier)(/|$)"


def get_config(init_from: str = "") -> ml_collections.ConfigDict:
    config = eca_jax.default_config()
    config.init_from = init_from
    config.dataset = "folder"
    config.upright = True
    config.augment = "jitter-0.2"
    config.batch_size = 16
    config.bn_group_size = 0
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 1.0
    config.label_smoothing = 0.1
    config.patience = 10
    config.log_every_steps = 20
    config.checkpoint_every_steps = 0
    config.keep_checkpoints = 1
    if init_from:
        config.model = placeholder(str)
        config.crop_scale = (0.25, 1.0)
        config.num_epochs = 20
        config.learning_rate = 0.002
        config.optimizer.rates = ((CLASSIFIERS, 10.0),)
    else:
        config.model = "eca_resnet18"
        config.model_overrides.stage_sizes = (1, 1, 1, 1)
        config.image_size = 96
        config.crop_scale = (0.5, 1.0)
        config.num_epochs = 30
        config.learning_rate = 0.03
    return config
