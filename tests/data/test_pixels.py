"""Pixels and random crops against torchvision's real transforms on PIL."""

import io

import numpy as np
import pytest
from data_fixtures import jpeg
from PIL import Image
from scipy import stats

from eca_jax.data import eval_image
from eca_jax.data.augment import HorizontalFlip, RandomResizedCrop, augmented
from eca_jax.data.augment.crop import random_crop_window
from eca_jax.data.decode import decode
from eca_jax.data.order import example_rng
from eca_jax.data.resize import resize_and_crop
from eca_jax.weights.torch.peer import import_torchvision

SHAPES = [(375, 500), (500, 375), (333, 457), (101, 77), (60, 300), (256, 256), (811, 603), (17, 141), (225, 301)]
MODES = ["L", "CMYK", "png RGB", "png RGBA", "png P", "png L", "png LA", "png 1"]


def encoded(name):
    """An image file by name: a shape, or a colour mode with an optional container."""
    if isinstance(name, tuple):
        return jpeg(sum(name), *name)
    container, mode = name.split() if " " in name else ("jpeg", name)
    if container == "jpeg":
        return jpeg(1, 150, 203, mode)
    image = Image.open(io.BytesIO(jpeg(1, 150, 203))).convert("L" if mode == "LA" else "RGB").convert(mode)
    content = io.BytesIO()
    image.save(content, container)
    return content.getvalue()


def torchvision_eval(content, image_size, resize_size, interpolation):
    transforms = import_torchvision().transforms
    transform = transforms.Compose(
        [
            transforms.Resize(resize_size, interpolation=transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(image_size),
        ]
    )
    return np.asarray(transform(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sizes", [(224, 256), (225, 236), (225, 200)], ids=str)
def test_evaluation_pixels_equal_torchvisions(interpolation, sizes):
    for name in SHAPES + MODES:
        content = encoded(name)
        expected = torchvision_eval(content, *sizes, interpolation)
        np.testing.assert_array_equal(resize_and_crop(decode(content), *sizes, interpolation), expected, str(name))


def test_inference_loads_files_as_torchvision_does(tmp_path):
    path = tmp_path / "image.JPEG"
    for name in ((375, 500), "CMYK", "png P"):
        path.write_bytes(encoded(name))
        np.testing.assert_array_equal(
            eval_image(path, 192, 224, "bicubic"), torchvision_eval(encoded(name), 192, 224, "bicubic")
        )


def test_inference_names_missing_and_corrupt_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such image: .*absent\.jpg"):
        eval_image(tmp_path / "absent.jpg")
    for content in (jpeg(0)[:500], b"", b"not an image"):
        (tmp_path / "bad.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot decode image .*bad\.jpg: ") as error:
            eval_image(tmp_path / "bad.jpg")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"subsampling": 1, "progressive": True}])
def test_decoding_is_pils(options):
    content = jpeg(4, 133, 217, **options)
    np.testing.assert_array_equal(np.asarray(decode(content)), np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("truncated", [False, True], ids=["whole file", "no end marker"])
def test_training_images_are_torchvisions_to_the_last_bit(interpolation, truncated):
    """Given the same window, and the same decision to mirror; however the file ends."""
    functional = import_torchvision().transforms.functional
    mode = import_torchvision().transforms.InterpolationMode(interpolation)
    content = jpeg(5, 240, 320)
    if truncated:  # as some real files end: complete, followed by padding
        content += b"\0\0"
    crop, flip = RandomResizedCrop(112, interpolation=interpolation), HorizontalFlip()
    flipped = 0
    for index in range(12):
        top, left, height, width = random_crop_window(rng_of(index, crop), 240, 320, crop.scale, crop.ratio)
        expected = functional.resized_crop(
            Image.open(io.BytesIO(content)).convert("RGB"), top, left, height, width, [112, 112], mode
        )
        if rng_of(index, flip).random() < 0.5:
            expected, flipped = functional.hflip(expected), flipped + 1
        ours = augmented(decode(content), (crop, flip), 3, 1, index)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))
    assert 0 < flipped < 12


def rng_of(index, operation):
    return example_rng(3, 1, index, operation.name)


def windows(count, height, width, scale, ratio):
    """`count` random crops: int [count, 4]."""
    return np.array(
        [random_crop_window(example_rng(0, 0, i, "crop"), height, width, scale, ratio) for i in range(count)]
    )


@pytest.mark.parametrize("height, width", [(375, 500), (500, 333)])
def test_random_crops_follow_torchvisions_distribution(height, width):
    import torch

    count, scale, ratio = 20_000, (0.08, 1.0), (3 / 4, 4 / 3)
    ours = windows(count, height, width, scale, ratio)
    torch.manual_seed(0)
    get_params = import_torchvision().transforms.RandomResizedCrop.get_params
    blank = torch.empty(3, height, width)
    peer = np.array([get_params(blank, scale, ratio) for _ in range(count)])
    for name, statistic in {
        "area": lambda w: w[:, 2] * w[:, 3],
        "aspect ratio": lambda w: w[:, 3] / w[:, 2],
        "top": lambda w: w[:, 0] / (height - w[:, 2] + 1),
        "left": lambda w: w[:, 1] / (width - w[:, 3] + 1),
    }.items():
        assert stats.ks_2samp(statistic(ours), statistic(peer)).pvalue > 0.01, name
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


@pytest.mark.parametrize("height, width", [(20, 400), (400, 21), (33, 37)])
def test_crops_fall_back_to_torchvisions_central_window(height, width):
    """A crop larger than the image never fits, so that both take the fallback."""
    import torch

    scale, ratio = (1.5, 1.5), (3 / 4, 4 / 3)
    expected = import_torchvision().transforms.RandomResizedCrop.get_params(
        torch.empty(3, height, width), list(scale), list(ratio)
    )
    assert tuple(windows(1, height, width, scale, ratio)[0]) == tuple(expected)
