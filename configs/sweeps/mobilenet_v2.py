"""MobileNetV2 of the paper's Table 3: without attention, with SE (r = 8) and with ECA.

eca-jax sweep mobilenet_v2 runs/mobilenet --data_dir=DIR --seeds 3
"""

import ml_collections

from eca_jax.analysis.sweep import Add, on_digits
from eca_jax.config import load_recipe


def get_config() -> ml_collections.ConfigDict:
    return load_recipe("eca_mobilenet_v2")


def sweep(add: Add) -> None:
    add("mobilenet_v2", label="MobileNetV2", model="mobilenet_v2", paper=71.64)
    add("se_mobilenet_v2", label="SE", model="se_mobilenet_v2", paper=72.42)
    add("eca_mobilenet_v2", label="ECA", model="eca_mobilenet_v2", paper=72.56)


def small(config: ml_collections.ConfigDict) -> None:
    """Half as wide, on digits, for two CPU cores."""
    config.model_overrides.small_images = True
    config.model_overrides.width_mult = 0.5
    on_digits(config)
