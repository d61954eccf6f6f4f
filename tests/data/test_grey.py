"""Pictures for networks that do not see RGB: grey and RGBA, by whichever door they enter."""

import io

import numpy as np
import pytest
from data_fixtures import jpeg
from PIL import Image

import eca_jax
from eca_jax.data import load_source, train_batches
from eca_jax.data.brightness import brightness
from eca_jax.data.decode import decode
from eca_jax.data.preprocess import eval_image
from eca_jax.data.resize import resize_and_crop
from eca_jax.sharding import Shard
from eca_jax.tasks.task import create_task

SETTINGS = {"batch_size": 6, "image_size": 24, "seed": 3, "num_workers": 1}


def encoded(image, kind="png", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def picture(mode="RGB", size=(44, 37)):
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 10 pictures, grey and with transparency, in train and val."""
    root = tmp_path_factory.mktemp("channels")
    for split in ("train", "val"):
        for label, mode in enumerate(("L", "RGBA")):
            directory = root / split / f"class{label}"
            directory.mkdir(parents=True)
            for number in range(10):
                (directory / f"{number}.png").write_bytes(encoded(picture(mode, (40 + number, 36))))
    return root


def task(folder, in_chans, **changes):
    config = eca_jax.default_config()
    config.update(
        {"dataset": "folder", "data_dir": str(folder), "image_size": 24, "batch_size": 4, "model": "resnet18"}
    )
    config.model_overrides.in_chans = in_chans
    config.update(changes)
    return create_task(config)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "CMYK"])
def test_a_picture_of_any_kind_is_read_as_grey_and_as_rgba(mode):
    file = encoded(picture(mode), "tiff" if mode == "CMYK" else "png")
    for wanted in ("L", "RGBA"):
        found = decode(file, mode=wanted)
        assert found.mode == wanted
        whole = decode(file) if wanted == "L" else Image.open(io.BytesIO(file))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(whole.convert(wanted)))


def test_sixteen_bits_count_by_their_high_byte():
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (20, 30)).astype(np.uint16)
    file = encoded(Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(decode(file, mode="L")), pixels >> 8)
    np.testing.assert_array_equal(np.asarray(decode(file, mode="RGBA"))[..., 1], pixels >> 8)


def test_grey_is_one_channel_of_a_grey_picture_of_three():
    image = picture("L")
    grey, three = (eval_image(image, 24, 30, channels=channels) for channels in (1, 3))
    assert grey.shape == (24, 24, 1)
    np.testing.assert_array_equal(np.repeat(grey, 3, axis=2), three)
    np.testing.assert_array_equal(eval_image(np.asarray(image)[..., None], 24, 30, channels=1), grey)
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 1\], not uint8 \[24, 24, 3\]"):
        eval_image(three, 24, 30, channels=1)
    with pytest.raises(ValueError, match=r"read with 1 channel \(grey\), 3 \(RGB\) or 4 \(RGBA\), not with 5"):
        eval_image(image, 24, 30, channels=5)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_a_crop_of_a_thin_picture_is_the_same_either_way(mode, monkeypatch):
    for size in ((300, 1), (2, 90), (40, 30)):
        for sizes in ((50, 64, "bilinear"), (70, 60, "bicubic")):
            expected = resize_and_crop(picture(mode, size), *sizes)
            with monkeypatch.context() as patched:
                patched.setattr("eca_jax.data.resize._LARGE", 1)
                np.testing.assert_array_equal(resize_and_crop(picture(mode, size), *sizes), expected)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_training_validation_and_prediction_see_the_channels(folder, in_chans):
    made = task(folder, in_chans)
    assert made.card.preprocessing.channels == made.model.in_chans == in_chans
    assert made.batch["image"].shape == next(made.train_batches(0, Shard(0, 1)))["image"].shape == (4, 24, 24, in_chans)
    how, (batch, *_) = made.preprocessing, made.eval_batches("validation", Shard(0, 1))
    for number in range(4):
        file = folder / "val" / "class0" / f"{number}.png"
        predicted = eval_image(file, how.image_size, how.resize_size, how.interpolation, channels=how.channels)
        np.testing.assert_array_equal(batch["image"][number], predicted)
    assert made.card.brightness == brightness(made.source, in_chans)


def test_every_augmentation_knows_grey_and_leaves_it_as_rgb_would(tmp_path):
    for label in range(2):
        (tmp_path / f"class{label}").mkdir()
        for number in range(10):
            file = tmp_path / f"class{label}" / f"{number}.jpg"
            file.write_bytes(jpeg(10 * label + number, 30, 36, mode="L"))
    source = load_source("folder", tmp_path)
    for augment in ("rand-m9-mstd0.5-n3-p1.0", "original", "ta_wide", "3a+jitter-0.4"):
        fill = (90, 90, 90)
        grey, three = (
            next(train_batches(source, augment=augment, channels=channels, fill=fill, **SETTINGS))["image"]
            for channels in (1, 3)
        )
        np.testing.assert_array_equal(np.repeat(grey, 3, axis=3), three)
    with pytest.raises(ValueError, match="augment knows images of 1 or 3 channels, not of 4"):
        train_batches(source, augment="ta_wide", channels=4, **SETTINGS)
    with pytest.raises(ValueError, match="not with 5"):
        train_batches(source, channels=5, **SETTINGS)


def test_mean_and_deviation_are_of_the_channels(folder):
    assert task(folder, 1, mean=(0.2,), std=(0.3,)).preprocessing.mean == (0.2,)
    with pytest.raises(ValueError, match="mean and std are of 3 channels, the images of in_chans=1"):
        task(folder, 1, mean=(0.2,) * 3, std=(0.3,) * 3)
