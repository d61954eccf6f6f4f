"""What every recipe shares: ECA-ResNet-50 on ImageNet as the paper trained it. The other configs change what differs.

Any key is set from the command line as `--config.key=value`, nested ones as `--config.optimizer.weight_decay=2e-5`.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # The model: a name of `python -m eca_jax list`, and fields of its module, None for the model's own value.
    config.model = "eca_resnet50"
    config.model_overrides = ml_collections.ConfigDict(
        {
            "small_images": placeholder(bool),
            "stage_sizes": placeholder(object),
            "kernel_sizes": placeholder(object),
            "width_mult": placeholder(float),
            "dropout": placeholder(float),
        }
    )
    config.num_classes = 1000
    config.dtype = "float32"  # of the computation: "bfloat16" is much faster on TPUs; parameters stay float32
    config.bn_group_size = 64  # examples that share BatchNorm statistics (the paper: 64 a GPU); 0 is the whole batch
    config.init_from = ""  # weights to start from: a workdir, a weights directory, or a PyTorch file

    # The data: "imagenet2012" (as TFDS prepares it), "folder" (train/CLASS/*, val/CLASS/*) or "digits".
    config.dataset = "imagenet2012"
    config.data_dir = ""  # of "folder": its root; of TFDS: where it keeps its data sets, "" is ~/tensorflow_datasets
    config.image_size = 224
    config.crop_pct = 0.875  # evaluation resizes the short side to image_size / crop_pct before the centre crop
    config.interpolation = "bilinear"
    config.mean = (0.485, 0.456, 0.406)
    config.std = (0.229, 0.224, 0.225)
    config.crop_scale = (0.08, 1.0)  # of the random crop: share of the image's area,
    config.crop_ratio = (3 / 4, 4 / 3)  # and width over height
    config.flip = True

    # The optimization. The learning rate goes with the batch size: scale it when you change that.
    config.batch_size = 256  # over all devices of all processes
    config.num_epochs = 100
    config.seed = 0
    config.learning_rate = 0.1
    config.schedule = ml_collections.ConfigDict(
        {"name": "step", "decay_epochs": 30, "decay_rate": 0.1, "warmup_epochs": 0.0}  # or name="cosine"
    )
    config.optimizer = ml_collections.ConfigDict(
        {"momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "decay_kernels_only": False}
    )
    config.label_smoothing = 0.0
    config.ema_decay = 0.0  # of a moving average of the weights, evaluated beside them; 0 keeps none

    # The run.
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1000  # besides one at every evaluation; 0 for those only
    config.keep_checkpoints = 3  # the newest; the best is kept as well
    config.eval_every_epochs = 1
    config.profile_steps = 0  # profile that many steps into WORKDIR/profile, for TensorBoard
    config.compilation_cache = "~/.cache/eca_jax/xla"  # so that a restart need not compile again; "" for none

    return config.lock()
