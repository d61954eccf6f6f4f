"""Of any picture that Pillow can write: prediction, validation and training see the same one, or the same error."""

import io
import itertools
import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from eca_jax.data import eval_batches, eval_image, load_source, train_batches
from eca_jax.data.decode import decode

SIZE = 24
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F")
CONTAINERS = ("png", "jpeg", "bmp", "gif", "webp", "tiff", "ppm", "tga", "ico", "avif", "jpeg2000", "pcx", "sgi", "dds")


@st.composite
def files(draw):
    """The bytes of a picture of any mode, size and container, sometimes cut off."""
    mode, container = draw(st.sampled_from(MODES)), draw(st.sampled_from(CONTAINERS))
    width, height = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    noise = np.random.default_rng(draw(st.integers(0, 9)))
    grey = Image.fromarray(noise.integers(0, 256, (height, width), np.uint8))
    colours = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_180), grey.point(lambda v: 255 - v)])
    encoded = io.BytesIO()
    try:
        image = grey.convert(mode) if mode in ("1", "L", "LA", "I", "I;16", "F") else colours.convert(mode)
        image.save(encoded, container)
    except (OSError, ValueError, KeyError):  # no such mode in this container, or no such conversion
        assume(False)
    content = encoded.getvalue()
    if draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content) - 1))]
    return content


def outcome(see):
    """What `see` returns, or the reason why it cannot."""
    try:
        return see()
    except ValueError as error:
        return str(error)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(files())
def test_all_doors_see_the_same_picture_or_say_the_same(content):
    warnings.simplefilter("ignore")  # of what is skipped
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for split in ("train", "val"):
            (root / split / "cat").mkdir(parents=True)
            (root / split / "cat" / "a.png").write_bytes(content)
        path = root / "val" / "cat" / "a.png"
        predicted = outcome(lambda: eval_image(path, SIZE, SIZE))
        validated = outcome(
            lambda: next(eval_batches(load_source("folder", root), batch_size=1, image_size=SIZE, resize_size=SIZE))
        )
        if isinstance(predicted, str):
            reason = outcome(lambda: decode(content))
            assert predicted == f"cannot decode image {path}: {reason}"
            assert validated == f"cannot decode validation image {path}: {reason}"
        else:
            np.testing.assert_array_equal(validated["image"][0], predicted)
            np.testing.assert_array_equal(eval_image(content, SIZE, SIZE), predicted)
        image = outcome(lambda: decode(content))
        ratio = 1 if isinstance(image, str) else image.width / image.height
        whole = {"crop_scale": (1, 1), "crop_ratio": (ratio, ratio), "flip": False}
        train = load_source("folder", root)
        (batch,) = itertools.islice(train_batches(train, batch_size=1, image_size=SIZE, seed=0, **whole), 1)
        assert batch["mask"][0] == (not isinstance(predicted, str))
        if batch["mask"][0]:
            expected = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(batch["image"][0], np.asarray(expected))
