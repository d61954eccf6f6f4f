"""How bright a data set is, and which pictures are nothing like it."""

import shutil

import numpy as np
import pytest
from PIL import Image

from eca_jax.data import load_source
from eca_jax.data.brightness import brightness, unlike


@pytest.fixture
def dark(tmp_path):
    """Pictures of mean values from 40 to 59, two damaged ones among them."""
    for split in ("train", "val"):
        for number in range(20):
            path = tmp_path / split / "cat" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 40 + number, np.uint8)).save(path)
        for number in (0, 19):
            (tmp_path / split / "cat" / f"{number}.png").write_bytes(b"no picture")
    return tmp_path


def test_it_is_that_of_the_training_images(dark):
    levels = np.arange(41, 59)
    np.testing.assert_allclose(brightness(load_source("folder", dark)), (levels.mean(), levels.std()), rtol=1e-6)
    shutil.rmtree(dark / "train")
    assert brightness(load_source("folder", dark, splits=("validation",))) is None


def test_what_is_light_on_dark_is_known_from_dark_on_light():
    digit = np.zeros((8, 8, 3), np.uint8)
    digit[2:6, 3:5] = 255
    assert unlike(digit, (70.0, 12.0)) is None
    assert unlike(255 - digit, (70.0, 12.0)) == (
        "much brighter than the training images (mean 223 of 255, theirs 70 +- 12)"
    )
    assert unlike(digit, (200.0, 5.0)).startswith("much darker than the training images (mean 32 of 255")
    assert unlike(255 - digit, (110.0, 45.0)) is None  # photographs may be anything
