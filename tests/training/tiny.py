"""Two narrow stages of an ECA-ResNet on 16-pixel images of a folder tree: 6 steps an epoch, milliseconds a step."""

import eca_jax


def get_config():
    config = eca_jax.default_config()
    config.model = "eca_resnet18"
    config.model_overrides.stage_sizes = (1, 1, 0, 0)
    config.model_overrides.small_images = True
    config.num_classes = 3
    config.dataset = "folder"
    config.image_size = 16
    config.batch_size = 8
    config.bn_group_size = 0
    config.num_epochs = 4
    config.learning_rate = 0.05
    config.schedule.name = "cosine"
    config.log_every_steps = 4
    config.checkpoint_every_steps = 4
    config.keep_checkpoints = 2
    config.ema_decay = 0.9
    config.compilation_cache = ""
    config.report = False
    return config
