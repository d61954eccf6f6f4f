"""The supplement's Table A: ResNet-18 and 34 without attention and with SE, CBAM and ECA.

    eca-jax sweep resnet18_34 runs/tableA --data_dir=DIR --seeds 3

Every row is compared with ResNet-18, the first.
"""

import ml_collections

import eca_jax
from eca_jax.analysis.sweep import Add, on_digits


def get_config() -> ml_collections.ConfigDict:
    return eca_jax.default_config()


def sweep(add: Add) -> None:
    papers = {
        18: {"": 70.40, "se": 70.59, "cbam": 70.73, "eca": 70.78},
        34: {"": 73.31, "se": 73.87, "cbam": 74.01, "eca": 74.21},
    }
    for depth, rows in papers.items():
        for attention, paper in rows.items():
            label = " ".join(filter(None, (attention.upper(), f"ResNet-{depth}")))
            model = f"{attention}_resnet{depth}" if attention else f"resnet{depth}"
            add(model, label=label, model=model, paper=paper)


def small(config: ml_collections.ConfigDict) -> None:
    """One block a stage on digits, and two where ResNet-34 is meant, for two CPU cores."""
    config.model_overrides.small_images = True
    config.model_overrides.stage_sizes = (1, 1, 1, 1) if config.model.endswith("18") else (2, 2, 2, 2)
    on_digits(config)
