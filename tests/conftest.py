"""Small data sets in the real formats, shared by the tests of data, training and the commands."""

import io
import os
import tarfile

import pytest
from data_fixtures import TRAIN_PER_CLASS, VALIDATION_EXAMPLES, WNIDS, add_to_tar, example_jpeg

# The tests' processes compile for TPUs beside each other; libtpu would let only one of them on a machine.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


@pytest.fixture(scope="session")
def imagenet_dir(tmp_path_factory):
    """TFDS directory of a tiny imagenet2012, prepared by TFDS's own builder from ILSVRC2012_img_{train,val}.tar.

    4 classes (of 1,000) with TRAIN_PER_CLASS images each, and VALIDATION_EXAMPLES images, in 4 shards as the full set
    has 1,024.
    """
    return prepared(tmp_path_factory, "tfrecord")


@pytest.fixture(scope="session")
def array_record_dir(tmp_path_factory):
    """The same in ArrayRecord files."""
    return prepared(tmp_path_factory, "array_record")


def prepared(tmp_path_factory, file_format):
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
    builder = tfds.builder("imagenet2012", data_dir=str(root / "tfds"), try_gcs=False, file_format=file_format)
    tfds.disable_progress_bar()
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(manual), num_shards=4))
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
