"""Opening data sets: what is found, what is missing, and what is said about it."""

import shutil

import numpy as np
import pytest
from data_fixtures import TRAIN_PER_CLASS, VALIDATION_EXAMPLES, WNIDS, jpeg

from eca_jax.data import eval_batches, load_source


def test_prepared_imagenet_is_read_as_tfds_made_it(imagenet_dir):
    source = load_source("imagenet2012", imagenet_dir)
    assert source.num_classes == 1000
    assert source.class_names[:4] == list(WNIDS)
    assert source.num_examples("train") == 4 * TRAIN_PER_CLASS
    assert source.num_examples("validation") == VALIDATION_EXAMPLES


def test_missing_imagenet_says_how_to_prepare_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="not prepared") as error:
        load_source("imagenet2012", tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        str(tmp_path),
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        "download_and_prepare",
        "manual_dir",
    ):
        assert part in message


def test_folder_classes_are_numbered_as_torchvision_does(folder_dir):
    from eca_jax.weights.torch.peer import import_torchvision

    peer = import_torchvision().datasets.ImageFolder(folder_dir / "train")
    source = load_source("folder", folder_dir)
    assert source.class_names == peer.classes
    assert source.num_examples("train") == len(peer)
    described = [source.describe("train", index) for index in range(len(peer))]
    assert described == [path for path, _ in peer.samples]
    labels = np.concatenate(
        [b["label"][b["mask"] == 1] for b in eval_batches(source, "train", batch_size=16, image_size=8, resize_size=8)]
    )
    assert labels.tolist() == peer.targets


def test_extensions_of_any_case_are_found_and_others_left(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        for name in ("a.JPEG", "b.jpg", "c.PNG", "d.Jpeg", "notes.txt"):
            (tmp_path / split / "cat" / name).write_bytes(jpeg(0))
    assert load_source("folder", tmp_path).num_examples("train") == 4


def test_folder_trees_that_are_none_are_explained(folder_dir, tmp_path):
    with pytest.raises(ValueError, match="needs data_dir"):
        load_source("folder")
    with pytest.raises(FileNotFoundError, match=r"no such directory: .*train"):
        load_source("folder", tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="no class directories"):
        load_source("folder", tmp_path)
    shutil.copytree(folder_dir, tmp_path / "tree")
    (tmp_path / "tree" / "val" / WNIDS[1]).rename(tmp_path / "tree" / "val" / "other")
    with pytest.raises(ValueError, match=r"train and val must have the same classes; 2 .* e\.g\. 'n01443537'"):
        load_source("folder", tmp_path / "tree")
    (tmp_path / "tree" / "train" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no .* file under .*empty"):
        load_source("folder", tmp_path / "tree")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown dataset 'cifar': choose imagenet2012, folder or digits"):
        load_source("cifar")


def test_digits_are_scikit_learns_with_a_fixed_split(tmp_path):
    from sklearn.datasets import load_digits

    source = load_source("digits", tmp_path)
    assert (source.num_examples("train"), source.num_examples("validation"), source.num_classes) == (1437, 360, 10)
    images, labels = [], []
    for split in ("train", "validation"):
        for batch in eval_batches(source, split, batch_size=90, image_size=32, resize_size=32):
            images.append(batch["image"][batch["mask"] == 1])
            labels.append(batch["label"][batch["mask"] == 1])
    images, labels = np.concatenate(images), np.concatenate(labels)
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(load_digits().target))
    # Averaged back to 8x8 they are the originals, all of them, in some order.
    small = images.mean(axis=-1).reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(len(images), -1)
    originals = load_digits().images.reshape(len(images), -1) * (255 / 16)
    nearest = ((small[:, None] - originals[None]) ** 2).sum(-1).argmin(1)
    assert len(np.unique(nearest)) > 1790
    assert (load_digits().target[nearest] == labels).mean() > 0.999


def test_digits_that_another_process_finishes_first_are_taken_as_they_are(tmp_path, monkeypatch):
    from eca_jax.data.sources import digits

    prepare = digits.Digits.download_and_prepare

    def overtaken(builder):
        monkeypatch.setattr(digits.Digits, "download_and_prepare", prepare)
        load_source("digits", tmp_path)  # the other process
        prepare(builder)

    monkeypatch.setattr(digits.Digits, "download_and_prepare", overtaken)
    assert load_source("digits", tmp_path).num_examples("train") == 1437
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]  # nothing half-written is left


def test_digits_are_written_once(tmp_path, monkeypatch):
    from eca_jax.data.sources import digits

    load_source("digits", tmp_path)
    monkeypatch.setattr(digits.Digits, "download_and_prepare", None)
    assert load_source("digits", tmp_path).num_examples("validation") == 360
