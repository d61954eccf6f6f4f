"""Every kind of picture that people have: one picture is one tensor, whichever door it enters by."""

import io
import itertools
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from data_fixtures import jpeg
from PIL import Image

from eca_jax.data import eval_batches, eval_image, load_source, train_batches
from eca_jax.data.decode import UndecodableImage, decode
from eca_jax.data.resize import enlarged_window, resize_and_crop

PHOTO = Image.open(io.BytesIO(jpeg(3, 60, 80))).convert("RGB")


def content(image, container="png", **options):
    encoded = io.BytesIO()
    image.save(encoded, container, **options)
    return encoded.getvalue()


def pixels(encoded, **options):
    return np.asarray(decode(encoded, **options))


def ramp():
    return np.linspace(0, 65535, 400).astype(np.uint16)[None].repeat(30, 0)


@pytest.mark.parametrize("container", ["png", "tiff", "ppm"])
def test_sixteen_bit_grey_counts_by_its_high_byte(container):
    encoded = content(Image.fromarray(ramp()), container)
    expected = np.repeat((ramp() >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(encoded), expected)
    assert 120 < eval_image(encoded, 30, 30).mean() < 135  # not nearly all white


@pytest.mark.parametrize("marked", [True, False], ids=["Adobe marker", "no marker"])
def test_cmyk_is_pils_with_and_without_the_marker(marked):
    encoded = content(PHOTO.convert("CMYK"), "jpeg", quality=95)
    if not marked:
        start = encoded.index(b"\xff\xee")
        (length,) = struct.unpack(">H", encoded[start + 2 : start + 4])
        encoded = encoded[:start] + encoded[start + 2 + length :]
    expected = Image.open(io.BytesIO(encoded)).convert("RGB")
    np.testing.assert_array_equal(pixels(encoded), np.asarray(expected))


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning():
    palette = PHOTO.quantize(16)
    encoded = content(palette, transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels(encoded)
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_and_the_colour_under_it_used(mode):
    picture = PHOTO.convert(mode)
    picture.putalpha(Image.new("L", PHOTO.size, 0))
    np.testing.assert_array_equal(pixels(content(picture)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("container", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_counts(container):
    encoded = content(PHOTO, container, save_all=True, append_images=[PHOTO.rotate(180)])
    np.testing.assert_array_equal(pixels(encoded), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_ignored_unless_asked_for(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's transpositions, by orientation
    encoded = content(PHOTO, "png", exif=exif)
    turned = PHOTO.transpose(Image.Transpose(upright[orientation])) if orientation > 1 else PHOTO
    np.testing.assert_array_equal(pixels(encoded), np.asarray(PHOTO))
    np.testing.assert_array_equal(pixels(encoded, upright=True), np.asarray(turned))
    np.testing.assert_array_equal(
        eval_image(Image.open(io.BytesIO(encoded)), 32, 40, upright=True), eval_image(turned, 32, 40)
    )


def test_a_damaged_note_of_the_camera_is_no_damaged_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = content(PHOTO, "jpeg", exif=exif).replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\0\xff")
    assert pixels(encoded, upright=True).shape == (60, 80, 3)


@pytest.mark.parametrize(
    "encoded, reason",
    [
        (b"", "the file is empty"),
        (b"<html>", "not an image of a known format"),
        (jpeg(0)[:-400], "truncated"),
        (zlib.compress(jpeg(0)), "not an image of a known format"),
        (content(PHOTO, "eps"), "not an image of a known format"),  # it would start Ghostscript
        (content(PHOTO)[:-300], "."),
    ],
)
def test_damage_is_named_in_one_line(encoded, reason):
    with pytest.raises(UndecodableImage, match=reason) as error:
        decode(encoded)
    assert "\n" not in str(error.value)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(UndecodableImage, match=r"more than 178,956,970 pixels, the limit \(twice PIL\.Image\.MAX"):
        decode(b"P6 14000 14000 255\n")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_window_of_an_enlarged_image_is_pils(interpolation):
    for height, width, resize_size in [(1, 90, 64), (90, 1, 64), (3, 200, 40), (37, 53, 90), (81, 50, 51), (5, 5, 5)]:
        image = Image.open(io.BytesIO(jpeg(height, height, width)))
        scale = resize_size / min(height, width)
        size = (int(height * scale), int(width * scale))
        whole = np.asarray(image.resize(size[::-1], Image.Resampling[interpolation.upper()]))
        rng = np.random.default_rng(width)
        for _ in range(12):
            start = [int(rng.integers(0, length)) for length in size]
            count = [
                int(rng.integers(1, min(length - first, 50) + 1)) for length, first in zip(size, start, strict=True)
            ]
            part = enlarged_window(image, size, interpolation, tuple(start), tuple(count))
            expected = whole[start[0] : start[0] + count[0], start[1] : start[1] + count[1]]
            np.testing.assert_array_equal(np.asarray(part), expected)


def test_a_crop_of_a_thin_picture_is_the_same_either_way(monkeypatch):
    for shape in ((1, 300), (300, 1), (2, 900), (40, 30)):
        image = Image.open(io.BytesIO(jpeg(7, *shape)))
        for sizes in ((224, 256, "bilinear"), (100, 60, "bicubic")):
            expected = resize_and_crop(image, *sizes)
            with monkeypatch.context() as patched:
                patched.setattr("eca_jax.data.resize._LARGE", 1)
                np.testing.assert_array_equal(resize_and_crop(image, *sizes), expected)


# Prints the most memory that a process has had, in KB. (`ru_maxrss` would count what its parent had, too.)
PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def test_nothing_is_enlarged_before_the_crop():
    """1 x 16000 pixels in 142 bytes were 4.4 GB, 1 x 100000 the end of the process."""
    code = (
        "import io; from PIL import Image; from eca_jax.data.preprocess import eval_image\n"
        "for size in ((1, 16000), (100000, 1)):\n"
        "    encoded = io.BytesIO(); Image.new('RGB', size).save(encoded, 'png')\n"
        "    assert eval_image(encoded.getvalue()).shape == (224, 224, 3)\n" + PEAK
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700_000  # kilobytes, most of them JAX's


def files(root):
    """One picture in every mode and container, under the wrong suffixes too: paths by name."""
    pictures = {
        "rgb.jpg": content(PHOTO, "jpeg"),
        "progressive.jpg": content(PHOTO, "jpeg", progressive=True),
        "grey.jpg": content(PHOTO.convert("L"), "jpeg"),
        "cmyk.jpg": content(PHOTO.convert("CMYK"), "jpeg"),
        "padded.jpg": content(PHOTO, "jpeg") + b"\0\0",
        "sixteen.png": content(Image.fromarray(ramp())),
        "palette.png": content(PHOTO.quantize(16), transparency=bytes(range(16))),
        "rgba.png": content(PHOTO.convert("RGBA")),
        "bit.png": content(PHOTO.convert("1")),
        "grey_alpha.png": content(PHOTO.convert("LA")),
        "wrong.png": content(PHOTO, "jpeg"),
        "wrong.jpg": content(PHOTO, "png"),
        **{
            f"kind.{kind}": content(PHOTO, kind) for kind in ("bmp", "webp", "tiff", "gif", "ppm", "avif", "tga", "ico")
        },
    }
    for split in ("train", "val"):
        (root / split / "cat").mkdir(parents=True)
        for name, encoded in pictures.items():
            (root / split / "cat" / name).write_bytes(encoded)
    return sorted((root / "train" / "cat").iterdir())


def test_training_validation_and_prediction_see_the_same_picture(tmp_path):
    """Training with the whole image as its crop, which is then the plain resize."""
    paths = files(tmp_path)
    source = load_source("folder", tmp_path)
    validation = eval_batches(source, batch_size=len(paths), image_size=32, resize_size=32)
    predicted = np.stack([eval_image(path, 32, 32) for path in paths])
    np.testing.assert_array_equal(next(validation)["image"], predicted)
    for path in paths:
        np.testing.assert_array_equal(eval_image(path.read_bytes(), 32, 32), eval_image(path, 32, 32))
        np.testing.assert_array_equal(eval_image(io.BytesIO(path.read_bytes()), 32, 32), eval_image(path, 32, 32))
        np.testing.assert_array_equal(eval_image(Image.open(path), 32, 32), eval_image(path, 32, 32), str(path))
    trained = train_batches(
        source, batch_size=len(paths), image_size=32, seed=0, crop_scale=(1, 1), crop_ratio=(1e-9, 1e9), flip=False
    )
    (batch,) = itertools.islice(trained, 1)
    assert batch["mask"].all()


@pytest.mark.slow
def test_memory_of_a_large_photograph_stays_bounded():
    """Its pixels twice at most: as decoded, and as RGB."""
    code = (
        "import io; from PIL import Image; from eca_jax.data.preprocess import eval_image\n"
        "encoded = io.BytesIO(); Image.new('L', (12000, 9000)).save(encoded, 'png')\n"
        "eval_image(encoded.getvalue())\n" + PEAK
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_500_000
