"""Small data sets in the real formats, shared by the tests of data, training and the commands."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")
TRAIN_PER_CLASS = 10
VALIDATION_EXAMPLES = 14


def jpeg(seed: int, height: int = 48, width: int = 64, mode: str = "RGB", **options) -> bytes:
    """A JPEG of random blobs with fine texture, as hard for a resize as a photograph."""
    rng = np.random.default_rng(seed)

    def layer(factor):
        pixels = rng.integers(0, 256, (height // factor + 2, width // factor + 2, 3), np.uint8)
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), np.float32)

    pixels = (0.7 * layer(8) + 0.3 * layer(2)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(encoded, "jpeg", **options)
    return encoded.getvalue()


def example_jpeg(number: int) -> bytes:
    """The images of the small data sets: no two alike, in shapes that vary."""
    return jpeg(number, height=40 + number % 17, width=64 - number % 13)


def add_to_tar(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session")
def imagenet_dir(tmp_path_factory):
    """TFDS directory of a tiny imagenet2012, prepared by TFDS's own builder from ILSVRC2012_img_{train,val}.tar.

    4 classes (of 1,000) with TRAIN_PER_CLASS images each, and VALIDATION_EXAMPLES images.
    """
    from eca_jax.data.runtime import tensorflow

    tensorflow()
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("imagenet")
    manual = root / "manual"
    manual.mkdir()
    with tarfile.open(manual / "ILSVRC2012_img_train.tar", "w") as train:
        for label, wnid in enumerate(WNIDS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number in range(TRAIN_PER_CLASS):
                    add_to_tar(tar, f"{wnid}_{number}.JPEG", example_jpeg(label * TRAIN_PER_CLASS + number))
            add_to_tar(train, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(manual / "ILSVRC2012_img_val.tar", "w") as validation:
        for number in range(VALIDATION_EXAMPLES):
            add_to_tar(validation, f"ILSVRC2012_val_{number + 1:08d}.JPEG", example_jpeg(1000 + number))
    builder = tfds.builder("imagenet2012", data_dir=str(root / "tfds"), try_gcs=False)
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(manual)))
    return root / "tfds"


@pytest.fixture(scope="session")
def folder_dir(tmp_path_factory):
    """Folder tree of 4 classes, as many images as `imagenet_dir`. Shared: copy it before changing anything."""
    root = tmp_path_factory.mktemp("tree")
    for label, wnid in enumerate(WNIDS):
        for split in ("train", "val"):
            (root / split / wnid).mkdir(parents=True)
        for number in range(TRAIN_PER_CLASS):
            content = example_jpeg(label * TRAIN_PER_CLASS + number)
            (root / "train" / wnid / f"{wnid}_{number}.JPEG").write_bytes(content)
    for number in range(VALIDATION_EXAMPLES):
        name = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        (root / "val" / WNIDS[number % len(WNIDS)] / name).write_bytes(example_jpeg(1000 + number))
    return root
