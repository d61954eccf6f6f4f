"""The recipe that all others change: every key that a run knows, with the paper's value or none.

    import eca_jax

    def get_config():
        config = eca_jax.default_config()
        config.model = "eca_resnet50"
        return config

is a whole recipe, wherever its file lies. Any key is set from the command line as `--config.key=value`, nested ones as
`--config.optimizer.weight_decay=2e-5`.
"""

import difflib
import importlib
import inspect
import os
import runpy
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder


def default_config() -> ml_collections.ConfigDict:
    """ECA-ResNet-50 on ImageNet as the paper trained it: every key, locked so that a misspelt one is an error.

    A key that holds a placeholder (None) has a type and takes the value that its comment names.
    """
    config = ml_collections.ConfigDict()

    # What is trained: "classification", "detection", or "MODULE:CLASS" of one's own (see `eca_jax.tasks.task`).
    config.task = "classification"

    # The model: a name that `eca-jax list` shows, and fields of its module, None for the model's own value.
    config.model = "eca_resnet50"
    config.model_overrides = ml_collections.ConfigDict(
        {
            "attention": placeholder(str),
            "attention_options": placeholder(object),
            "small_images": placeholder(bool),
            "in_chans": placeholder(int),
            "stage_sizes": placeholder(object),
            "kernel_sizes": placeholder(object),
            "width_mult": placeholder(float),
            "dropout": placeholder(float),
            "drop_path": placeholder(float),
            # Of detectors.
            "backbone": placeholder(str),
            "backbone_options": placeholder(object),
            "width": placeholder(int),
            "batch_statistics": placeholder(bool),
            "rules": placeholder(str),
            "rule_options": placeholder(object),
        }
    )
    config.num_classes = placeholder(int)  # None: the data's
    config.dtype = "float32"  # of the computation: "bfloat16" is much faster on TPUs; parameters stay float32
    config.bn_group_size = 64  # examples that share BatchNorm statistics (the paper: 64 a GPU); 0 is the whole batch
    config.init_from = ""  # weights to start from: a workdir, a weights directory, or a PyTorch file

    # The data: "imagenet2012" (as TFDS prepares it), "digits", or "folder": train/CLASS/* and val/CLASS/*, or CLASS/*,
    # of which a fifth is for validation.
    config.dataset = "imagenet2012"
    config.data_dir = ""  # of "folder": its root; of TFDS: where it keeps its data sets, "" is ~/tensorflow_datasets
    # How images are prepared; None is the model's own.
    config.image_size = placeholder(int)
    config.eval_image_size = placeholder(int)  # None: as in training; networks are often better at a larger one
    config.crop_pct = placeholder(float)  # evaluation resizes the short side to image_size / crop_pct before the crop
    config.interpolation = placeholder(str)
    config.mean = placeholder(tuple)
    config.std = placeholder(tuple)
    config.crop_scale = (0.08, 1.0)  # of the random crop in training: share of the image's area,
    config.crop_ratio = (3 / 4, 4 / 3)  # and width over height
    config.flip = True
    config.upright = False  # turn pictures as their EXIF orientation says; published weights were trained without
    config.augment = ""  # "rand-m7-mstd0.5-inc1", "original", "3a+jitter-0.3", "ta_wide": `eca_jax.data.augment.spec`
    config.repeated_augmentation = 1  # rows of a batch that show each example; an epoch meets that part of them
    # Kept in memory from epoch to epoch: "encoded" files or "decoded" images (5 times as large), of those met first so
    # many gigabytes in each process.
    config.data_cache = ""
    config.data_cache_gb = 0.0

    # Of task "detection", whose data are "coco" or "yolo" (a folder in that layout) or "shapes" (drawn): images are
    # resized to a short side of image_size, the long one at most 5/3 of it, on arrays of `canvas` (height, width)
    # pixels, with at most `objects` objects. A canvas that is no square is turned for images of the other orientation.
    config.detection = ml_collections.ConfigDict({"canvas": (1024, 1024), "objects": 100})

    # The optimization. The learning rate goes with the batch size: scale it when you change that.
    config.batch_size = 256  # over all devices of all processes
    config.num_epochs = 100
    config.seed = 0
    config.learning_rate = 0.1
    config.microbatches = 1  # parts that a batch goes through the network in, one after another, for the memory's sake
    # See `eca_jax.training.schedules.make_schedule`: "step", "exponential", "cosine" or "polynomial".
    config.schedule = ml_collections.ConfigDict(
        {
            "name": "step",
            "form": "step",  # "timm" and "epoch" are constant within an epoch
            "warmup_epochs": 0.0,
            "warmup_rate": 0.0,  # where the warm-up starts
            "cooldown_epochs": 0.0,  # of num_epochs, at their end
            "min_rate": 0.0,
            "decay_epochs": 30.0,  # of "step" and "exponential"
            "decay_rate": 0.1,
            "power": 2.0,  # of "polynomial"
            "noise": (),  # shares of the run, (0.4, 0.9): between them an epoch's rate goes up or down by chance,
            "noise_limit": 0.67,  # by at most this share of it,
            "noise_std": 1.0,  # as far as a normal deviate says
        }
    )
    # See `eca_jax.training.optimizer.make_optimizer`: "sgd", "lars", "rmsprop_tf", "adamw" or "lamb". None is the
    # optimizer's own value.
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "sgd",
            "momentum": 0.9,
            "nesterov": False,
            "beta2": placeholder(float),
            "epsilon": placeholder(float),
            "trust": 0.001,  # of LARS
            "rate_in_momentum": placeholder(bool),
            "weight_decay": 1e-4,
            "decay_kernels_only": False,  # BatchNorm's parameters and biases do not decay
            "max_norm": placeholder(float),  # of all gradients together
            "clip_adaptively": 0.0,  # timm's "agc"
            "frozen": (),  # patterns of paths, from their beginning: ("conv1/", "layer1_")
            "rates": (),  # shares of the learning rate by such patterns: (("fc/", 10.0),)
            "layer_decay": 1.0,
        }
    )
    config.label_smoothing = 0.0
    # "softmax", or "binary": each class for itself, targets above the threshold (None keeps them) as 1; the mean over
    # the classes, or their sum.
    config.loss = ml_collections.ConfigDict({"name": "softmax", "threshold": placeholder(float), "sum_classes": False})
    # Mixup and CutMix on the device, by the alphas (0: without), within groups of examples (0: those of BatchNorm), to
    # the epoch `off_epoch` (0: to the end).
    config.mix = ml_collections.ConfigDict(
        {"mixup": 0.0, "cutmix": 0.0, "probability": 1.0, "switch": 0.5, "mode": "batch", "group": 0, "off_epoch": 0}
    )
    # Random erasing on the device; "pixel", "color" or "mean".
    config.erase = ml_collections.ConfigDict({"probability": 0.0, "fill": "pixel", "count": 1})
    config.ema_decay = 0.0  # of a moving average of the weights, evaluated beside them; 0 keeps none
    config.ema_warmup = "tf"  # "timm" or "none": how soon it follows, see `eca_jax.training.step`

    # The run.
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1000  # besides one at every evaluation; 0 for those only
    config.keep_checkpoints = 3  # the newest; the best is kept as well
    config.eval_every_epochs = 1
    config.wandb_project = ""  # metrics go to Weights & Biases too (extra "wandb"),
    config.mlflow_experiment = ""  # and to MLflow (extra "mlflow"); metrics.jsonl and TensorBoard have them anyway
    config.patience = 0  # epochs without a better evaluation after which the run ends; 0 never ends it early
    config.report = True  # WORKDIR/report at the end: where the model errs, for people
    config.profile_steps = 0  # profile that many steps into WORKDIR/profile, for TensorBoard
    config.compilation_cache = "~/.cache/eca_jax/xla"  # so that a restart need not compile again; "" for none

    return config.lock()


def recipe_directory() -> Path:
    """Where the recipes lie that come with the package: `configs` in it, or beside it in a checkout."""
    package = Path(__file__).parent
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())


def recipes() -> dict[str, Path]:
    """The recipes that come with the package: their files by their names."""
    return {file.stem: file for file in sorted(recipe_directory().glob("*.py")) if file.stem != "__init__"}


def find_recipe(name: str | os.PathLike) -> Path:
    """The file of a recipe: a path, or the bare name of one that comes with the package.

    Raises:
      FileNotFoundError: there is no such file, and no recipe of that name; suggests the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = recipes()
    if str(name) in known:
        return known[str(name)]
    if path.suffix == ".py" or len(path.parts) > 1:
        raise FileNotFoundError(f"no such config file: {name}")
    near = difflib.get_close_matches(str(name), known, n=3)
    raise FileNotFoundError(f"no recipe {str(name)!r}: there are {', '.join(near or known)}")


def load_recipe(name: str | os.PathLike, init_from: str = "") -> ml_collections.ConfigDict:
    """What a recipe's `get_config()` returns, locked. What lies beside the recipe's file can be imported from then on.

    A recipe whose `get_config` has an argument, which is another with weights to start from, is given `init_from`.

    Raises:
      FileNotFoundError: as `find_recipe`.
      ValueError: the file has no function `get_config`, fails, or returns what is no recipe; one line, with the file's.
    """
    path = find_recipe(name)
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        arguments = [init_from] if get_config and inspect.signature(get_config).parameters else []
        config = get_config and get_config(*arguments)
    except Exception as error:  # whatever a file of the user's raises
        raise ValueError(_explained(path, error)) from error
    if get_config is None:
        raise ValueError(f"{path} is no recipe: it has no function get_config()")
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(f"{path}: get_config() returns a {type(config).__name__}, and should a ConfigDict")
    missing = [key for key in default_config() if key not in config]
    if missing:
        names = ", ".join(missing[:3]) + f" and {len(missing) - 3} more keys" * (len(missing) > 3)
        raise ValueError(f"{path} has no {names}: let it begin with eca_jax.default_config()")
    return config.lock()


def _explained(path: Path, error: Exception) -> str:
    """Where a recipe failed and why, one line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    # ml_collections says of a key that is not there which ones are, all of them, and the nearest.
    said = str(error)
    said = said[1:-1] if said[:1] == said[-1:] == "'" else said  # a KeyError's, inside
    said, _, others = said.partition(" Other fields present:")
    said += f" Did you mean{others.rpartition('Did you mean')[2]}" if "Did you mean" in others else ""
    kind = "" if isinstance(error, ValueError | AttributeError) else f"{type(error).__name__}: "
    return " ".join(f"{path}{f', line {lines[-1]}' if lines else ''}: {kind}{said}".split())


def plain(config: Any) -> Any:
    """A config (ConfigDict, or any nesting of mappings) as nested dicts."""
    return {key: plain(config[key]) for key in config} if hasattr(config, "keys") else config


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two plain configs differ: {"schedule.name": ("step", "cosine"), ...}; absent keys count as None."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found[prefix + key] = (old, new)
    return found


def import_object(name: str) -> Any:
    """What "MODULE:NAME" names, looked up from the working directory too.

    Raises:
      ValueError: it is not of that form, or there is no such module or name in it.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"{name!r} is not of the form MODULE:NAME")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name} cannot be imported: {error}") from None
