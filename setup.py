"""What pyproject.toml cannot say: the recipes of `configs/` are `eca_jax/configs` of the installed package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["eca_jax*"]), "eca_jax.configs", "eca_jax.configs.sweeps"],
    package_dir={"eca_jax.configs": "configs", "eca_jax.configs.sweeps": "configs/sweeps"},
)
