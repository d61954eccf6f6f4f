"""The paper's Table 2: what of SE makes the difference, on ResNet-50 and ImageNet.

    eca-jax sweep channel_attention runs/table2 --data_dir=DIR --seeds 3
    eca-jax sweep channel_attention runs/small --small --seeds 3 --only resnet50,se,eca    # on digits

`paper` is the printed top-1. ECA's kernel size is 3 in every block, as in the table.
"""

import ml_collections

import eca_jax
from eca_jax.analysis.sweep import Add, on_digits


def get_config() -> ml_collections.ConfigDict:
    return eca_jax.default_config()


def sweep(add: Add) -> None:
    add("resnet50", label="plain", model="resnet50", paper=75.20)
    for name, label, paper in (
        ("se", "SE", 76.71),
        ("se_var1", "SE-Var1", 76.00),
        ("se_var2", "SE-Var2", 77.07),
        ("se_var3", "SE-Var3", 77.42),
        ("se_gc1", "SE-GC1", 76.95),
        ("se_gc2", "SE-GC2", 76.98),
        ("se_gc3", "SE-GC3", 76.96),
        ("eca_ns", "ECA-NS", 77.35),
    ):
        add(name, label=label, model="resnet50", model_overrides={"attention": name}, paper=paper)
    sizes = {"attention": "eca", "kernel_sizes": (3, 3, 3, 3)}
    add("eca", label="ECA, k = 3", model="resnet50", model_overrides=sizes, paper=77.43)


def small(config: ml_collections.ConfigDict) -> None:
    """ResNet-18 of one block a stage on digits, as the quickstart's, for two CPU cores."""
    config.model = config.model.replace("50", "18")
    config.model_overrides.small_images = True
    config.model_overrides.stage_sizes = (1, 1, 1, 1)
    on_digits(config)
