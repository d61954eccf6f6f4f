"""Opening data sets: what is found, what is missing, and what is said about it."""

import io
import logging
import os
import shutil

import numpy as np
import pytest
from data_fixtures import TRAIN_PER_CLASS, VALIDATION_EXAMPLES, WNIDS, jpeg
from PIL import Image
from small_network import OPTIONS, random_variables

import eca_jax
from eca_jax.commands.main import main
from eca_jax.data import eval_batches, load_source, train_batches


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


def test_without_a_place_imagenet_is_looked_for_where_tfds_keeps_its_data_sets(tmp_path, capsys):
    import tensorflow_datasets as tfds

    model = eca_jax.create_model("eca_resnet18", num_classes=1000, **OPTIONS)
    eca_jax.save(tmp_path / "weights", model, random_variables(model))
    assert main(["evaluate", "--weights", str(tmp_path / "weights")]) == 2
    error = capsys.readouterr().err
    assert f"imagenet2012 is not prepared in {os.path.expanduser(tfds.core.constants.DATA_DIR)};" in error
    assert "tfds.builder('imagenet2012').download_and_prepare" in error


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


@pytest.fixture
def pets(tmp_path):
    """6 training and 3 validation pictures of each of two classes, to be spoilt."""
    for split, count in (("train", 6), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / name / f"{name}_{number}.jpg").write_bytes(jpeg(number))
    return tmp_path


def counts(root):
    source = load_source("folder", root)
    assert source.class_names == ["cat", "dog"]
    return source.num_examples("train"), source.num_examples("validation")


def test_what_tools_leave_behind_is_nothing(pets, caplog):
    """Hidden folders, AppleDouble files, archivers' and thumbnailers' leftovers are neither classes nor pictures."""
    (pets / "train" / ".empty").mkdir()
    for split in ("train", "val"):
        for folder in (".ipynb_checkpoints", "__MACOSX", "cat/.thumbs", "cat/@eaDir", "dog/__MACOSX"):
            (pets / split / folder).mkdir()
            (pets / split / folder / "a.jpg").write_bytes(jpeg(9))
        (pets / split / "cat" / "._cat_0.jpg").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (pets / split / name).touch()
            (pets / split / "dog" / name).touch()
    assert counts(pets) == (12, 6)
    assert not caplog.records


def test_every_format_of_pictures_is_read_and_the_rest_is_counted_and_named(pets, caplog):
    image = Image.open(io.BytesIO(jpeg(1)))
    for kind in ("bmp", "webp", "tif", "gif", "jfif", "jpe", "ppm", "avif", "jp2", "tga", "ico", "pgm", "apng"):
        image.save(pets / "train" / "cat" / f"x.{kind}")
    for name in ("a.heic", "b.heic", "c.txt"):
        (pets / "train" / "dog" / name).touch()
    with caplog.at_level(logging.WARNING):
        assert counts(pets) == (12 + 13, 6)
    (record,) = caplog.records
    assert "3 files in " in record.getMessage() and record.getMessage().endswith(
        f"2 .heic, 1 .txt, e.g. {pets / 'train' / 'dog' / 'a.heic'}"
    )
    batches = eval_batches(load_source("folder", pets), "train", batch_size=25, image_size=8, resize_size=8)
    assert next(batches)["mask"].all()


def test_names_are_bytes(pets):
    """As cameras and archives of other days left them: Latin-1."""
    directory = os.fsencode(pets / "train" / "cat")
    os.rename(directory + b"/cat_0.jpg", directory + b"/c\xe4t.jpg")
    assert counts(pets) == (12, 6)
    source = load_source("folder", pets)
    assert str(pets / "train" / "cat" / "c\\xe4t.jpg") in {source.describe("train", index) for index in range(6)}
    assert next(train_batches(source, batch_size=12, image_size=8, seed=0))["mask"].all()
    for split in ("train", "val"):
        os.rename(pets / split / "dog", os.fsencode(pets / split) + b"/d\xf6g")
    source = load_source("folder", pets)
    assert source.class_names == ["cat", "d\\xf6g"] and "\n".join(source.found).encode()  # text that can be printed
    assert source.num_examples("train") == 12


@pytest.mark.parametrize(
    "name", ["café ☕.jpg", "two  words.jpg", "a\nb.jpg", "[x]*?.jpg", "100%.jpg", "album.jpg/inner/deep.jpg", "%s.JPG"]
)
def test_whatever_a_name_looks_like_it_is_a_name(pets, name):
    """A folder that is called as a picture among them; a path may end with a slash."""
    path = pets / "train" / "cat" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(1, 8, 1))
    source = load_source("folder", f"{pets}/")
    assert counts(f"{pets}/") == (13, 6)
    assert str(path) in [source.describe("train", index) for index in range(13)]
    assert next(train_batches(source, batch_size=13, image_size=8, seed=0))["mask"].all()


def test_links_are_followed_once(pets):
    """Class folders and pictures may be links; a loop, or a link to what is there already, brings nothing new."""
    shutil.move(pets / "train" / "dog", pets / "elsewhere")
    (pets / "train" / "dog").symlink_to(pets / "elsewhere")
    (pets / "elsewhere" / "latest").symlink_to(".")
    (pets / "elsewhere" / "up").symlink_to(pets / "train")
    (pets / "elsewhere" / "again.jpg").symlink_to("dog_0.jpg")
    (pets / "train" / "cat" / "all").symlink_to(pets)
    assert counts(pets) == (12, 6)
    (pets / "train" / "cat" / "borrowed.jpg").symlink_to(pets / "val" / "cat" / "cat_0.jpg")
    assert counts(pets) == (13, 6)


def test_links_that_lead_nowhere_are_named(pets):
    (pets / "train" / "cat" / "gone.jpg").symlink_to(pets / "nowhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"1 links in .*train lead nowhere, e\.g\. .*gone\.jpg"):
        load_source("folder", pets)
    (pets / "train" / "cat" / "gone.jpg").unlink()
    (pets / "train" / "emu").symlink_to(pets / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"lead nowhere, e\.g\. .*emu"):
        load_source("folder", pets)


def test_damaged_pictures_are_named_before_they_are_needed(pets):
    whole = (pets / "val" / "dog" / "dog_0.jpg").read_bytes()
    (pets / "val" / "dog" / "padded.jpg").write_bytes(whole + bytes(100))  # looks odd, and is whole
    load_source("folder", pets, checked=("train", "validation"))
    (pets / "val" / "cat" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "val" / "dog" / "empty.jpg").touch()
    (pets / "train" / "dog" / "none.jpg").write_bytes(b"<html>")
    load_source("folder", pets)
    with pytest.raises(ValueError, match=r"cannot decode validation image .*half\.jpg: .*truncated.* \(1 more"):
        load_source("folder", pets, checked=("validation",))
    with pytest.raises(ValueError, match=r"train image .*none\.jpg: not an image of a known format$"):
        load_source("folder", pets, checked=("train",))


def test_evaluation_needs_no_training_pictures(pets):
    shutil.rmtree(pets / "train")
    with pytest.raises(FileNotFoundError, match=r"no such directory: .*train"):
        load_source("folder", pets)
    source = load_source("folder", pets, splits=("validation",))
    assert (source.class_names, source.num_examples("validation")) == (["cat", "dog"], 6)
    with pytest.raises(FileNotFoundError, match=r"no such directory: .*train"):
        source.num_examples("train")


def test_training_pictures_alone_are_a_tree_that_is_split(pets):
    shutil.rmtree(pets / "val")
    with pytest.raises(FileNotFoundError, match=r"val: expected val/CLASS/.*; .*train alone, as data_dir, is split"):
        load_source("folder", pets)
    source = load_source("folder", pets / "train")
    assert (
        source.class_names == ["cat", "dog"] and source.num_examples("train") + source.num_examples("validation") == 12
    )


def test_a_class_that_validation_lacks_is_named_though_only_validation_is_asked_for(pets):
    """Otherwise the labels would move."""
    shutil.rmtree(pets / "val" / "cat")
    with pytest.raises(ValueError, match="must have the same classes"):
        load_source("folder", pets, splits=("validation",))


def test_folder_trees_that_are_none_are_explained(folder_dir, tmp_path):
    with pytest.raises(ValueError, match="needs data_dir"):
        load_source("folder")
    (tmp_path / "cat.jpg").write_bytes(jpeg(0))  # pictures, and no directory a class
    with pytest.raises(FileNotFoundError, match=r"no such directory: .*train: expected .*, or CLASS/\*.JPEG, .* in "):
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
    with pytest.raises(ValueError, match="unknown dataset 'cifar': choose imagenet2012, folder, digits, imagenet2012_"):
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
