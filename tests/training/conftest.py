"""A tiny data set, a tiny recipe on it, and `train.py` as users run it: as a process."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eca_jax.training.loop import train

ROOT = Path(__file__).resolve().parents[2]

TINY = Path(__file__).with_name("tiny.py")
CLASSES = 3


def write_tree(root: Path, train: int = 16, validation: int = 5) -> Path:
    """A folder tree of `CLASSES` classes with that many 20x16 PNGs each: a class is a colour, the rest is noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", validation)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 160, (20, 16, 3))
                pixels[..., label] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def command(tree, tmp_path_factory):
    """`command(workdir, *arguments)` -> the command line of a training of the tiny recipe, and its environment."""
    cache = tmp_path_factory.mktemp("cache")

    def make(workdir, *arguments):
        line = [sys.executable, "train.py", f"--config={TINY}", f"--workdir={workdir}", f"--config.data_dir={tree}"]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return {"args": [*line, *arguments], "env": environment, "cwd": ROOT, "text": True}

    return make


@pytest.fixture(scope="session")
def run(command):
    """Runs the tiny recipe to its end: `run(workdir, *arguments)` -> CompletedProcess."""

    def run(workdir, *arguments):
        return subprocess.run(**command(workdir, *arguments), capture_output=True, timeout=300)

    return run


@pytest.fixture(scope="session")
def tiny(tree):
    """`tiny()` -> the tiny recipe, for use in this process."""

    def make():
        config = runpy.run_path(str(TINY))["get_config"]()
        config.data_dir = str(tree)
        return config

    return make


@pytest.fixture
def config(tiny):
    return tiny()


@pytest.fixture(scope="session")
def weights(tiny, tmp_path_factory) -> Path:
    """A workdir of the tiny recipe, after an epoch. Shared: copy it before changing anything."""
    config = tiny()
    config.num_epochs = 1
    workdir = tmp_path_factory.mktemp("weights")
    train(config, workdir)
    return workdir
