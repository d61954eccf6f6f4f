"""A directory a class and nothing else: what is for validation, and what is found."""

import logging

import numpy as np
import pytest
from data_fixtures import jpeg

from eca_jax.data import load_source
from eca_jax.data.sources.flat import VALIDATION_SHARE, is_validation, refuse_halves


@pytest.fixture
def photos(tmp_path):
    """20 and 8 pictures of two classes, 64 x 48, without train/ and val/."""
    for name, count in (("cat", 20), ("dog", 5)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.jpg").write_bytes(jpeg(number))
    return tmp_path


def files(source, split):
    return {source.describe(split, index) for index in range(source.num_examples(split))}


def test_a_flat_tree_is_split_by_its_names_and_new_files_move_none(photos):
    before = load_source("folder", photos)
    assert before.class_names == ["cat", "dog"]
    assert len(files(before, "train") | files(before, "validation")) == 25
    assert not files(before, "train") & files(before, "validation")
    for number in range(100, 130):
        (photos / "cat" / f"{number}.jpg").write_bytes(jpeg(number))
    after = load_source("folder", photos, splits=("validation",))
    assert files(before, "train") < files(after, "train")
    assert files(before, "validation") < files(after, "validation")


def test_a_fifth_of_each_class_validates_and_no_side_is_empty():
    labels = np.repeat(np.arange(4), (5000, 2, 3, 1))
    paths = [f"/photos/{label}/{number}.jpg" for number, label in enumerate(labels)]
    chosen = is_validation("/photos", paths, labels)
    assert abs(chosen[labels == 0].mean() - VALIDATION_SHARE) < 0.03
    for label in (1, 2):
        assert 0 < chosen[labels == label].sum() < (labels == label).sum()
    assert not chosen[labels == 3].any()
    elsewhere = [path.replace("/photos", "/mnt/disk") for path in paths]
    np.testing.assert_array_equal(chosen, is_validation("/mnt/disk", elsewhere, labels))


def test_what_is_found_is_said(photos, caplog):
    (photos / "dog" / "broken.jpg").write_bytes(jpeg(0)[:200])
    with caplog.at_level(logging.WARNING):
        source = load_source("folder", photos, checked=("validation",))
    assert "1 files that cannot be decoded are left out, e.g. " in caplog.text and "broken.jpg" in caplog.text
    counted, each, sizes, uneven = source.found
    train = source.num_examples("train")
    assert counted == f"2 classes, {train} train and {25 - train} validation images"
    assert each == "images a class: cat 20, dog 5"
    assert sizes == "sizes from 64 x 48 to 64 x 48, in the middle 64 x 48"
    assert uneven.startswith("uneven: 'cat' has 4 times the images of 'dog'")


@pytest.mark.parametrize("names", [("Train", "Val"), ("test", "cat"), ("photos",)])
def test_directories_that_look_like_no_classes_are_refused(names):
    with pytest.raises(ValueError, match=names[0]):
        refuse_halves("/photos", names)
