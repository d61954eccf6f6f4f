"""The paper's supplement, section B: one, two and three convolutions along the channels, on ResNet-50.

    eca-jax sweep stacked runs/stacked --data_dir=DIR --seeds 3

The supplement says that a second one gains about 0.1 points and more lose; what stands between them it does not say:
here ReLU (`attention_options={"activation": None}` for nothing).
"""

import ml_collections

import eca_jax
from eca_jax.analysis.sweep import Add, on_digits


def get_config() -> ml_collections.ConfigDict:
    return eca_jax.default_config()


def sweep(add: Add) -> None:
    add("eca", label="ECA", model="resnet50", model_overrides={"attention": "eca"}, paper=77.48)
    for depth in (2, 3):
        name = f"eca{depth}"
        add(name, label=f"{depth} convolutions", model="resnet50", model_overrides={"attention": name})


def small(config: ml_collections.ConfigDict) -> None:
    """ResNet-18 of one block a stage on digits, as the quickstart's, for two CPU cores."""
    config.model = config.model.replace("50", "18")
    config.model_overrides.small_images = True
    config.model_overrides.stage_sizes = (1, 1, 1, 1)
    on_digits(config)
