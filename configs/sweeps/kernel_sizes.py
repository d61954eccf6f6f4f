"""The paper's Figure 4: ECA with one kernel size in every block, and with the adaptive one, on ResNet-50.

    eca-jax sweep kernel_sizes runs/figure4 --data_dir=DIR --seeds 3

ResNet-101 is the same with `resnet101` in a copy of this file. Of the figure the text prints k = 3, adaptive and SE.
"""

import ml_collections

import eca_jax
from eca_jax.analysis.sweep import Add, on_digits

AXIS = "kernel size"


def get_config() -> ml_collections.ConfigDict:
    return eca_jax.default_config()


def sweep(add: Add) -> None:
    add("resnet50", label="plain", model="resnet50", paper=75.20)
    add("se", label="SE", model="se_resnet50", paper=76.71)
    papers = {3: 77.43}
    for size in (3, 5, 7, 9):
        overrides = {"kernel_sizes": (size,) * 4}
        add(
            f"k{size}",
            label=f"k = {size}",
            model="eca_resnet50",
            model_overrides=overrides,
            paper=papers.get(size),
            x=size,
        )
    add("adaptive", label="adaptive", model="eca_resnet50", model_overrides={"kernel_sizes": "adaptive"}, paper=77.48)


def small(config: ml_collections.ConfigDict) -> None:
    """ResNet-18 of one block a stage on digits, as the quickstart's, for two CPU cores."""
    config.model = config.model.replace("50", "18")
    config.model_overrides.small_images = True
    config.model_overrides.stage_sizes = (1, 1, 1, 1)
    on_digits(config)
