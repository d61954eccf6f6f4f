"""A folder of YOLO's labels is the same data set as the same objects in COCO's form."""

import logging

import numpy as np
import pytest
from test_annotations import CATEGORIES, IMAGES, perfect, written

from eca_jax.data.sources.coco import CocoSource
from eca_jax.data.sources.yolo import YoloSource

TRIANGLE = [5.0, 4.0, 25.0, 10.0, 8.0, 34.0]
ANNOTATIONS = [
    {"id": 1, "image_id": 5, "category_id": 3, "bbox": [2.0, 6.0, 10.0, 30.0]},
    {"id": 2, "image_id": 6, "category_id": 9, "bbox": [5.0, 4.0, 20.0, 30.0], "segmentation": [TRIANGLE]},
]


@pytest.fixture
def folder(tmp_path):
    """Both forms in one folder."""
    written(tmp_path, ANNOTATIONS)
    (tmp_path / "images").mkdir()
    for old, new in (("train2017", "train"), ("val2017", "val")):
        (tmp_path / "images" / new).symlink_to(tmp_path / old)
        (tmp_path / "labels" / new).mkdir(parents=True)
        (tmp_path / "labels" / new / "a.txt").write_text(f"0 {7 / 20} {21 / 60} {10 / 20} {30 / 60}\n\n")
        shares = " ".join(str(value / (50, 40)[i % 2]) for i, value in enumerate(TRIANGLE))
        (tmp_path / "labels" / new / "b.txt").write_text(f"1 {shares}\n")
    (tmp_path / "classes.txt").write_text("\n".join(category["name"] for category in CATEGORIES) + "\n")
    return tmp_path


def test_boxes_outlines_and_names_are_those_of_coco(folder):
    yolo, coco = YoloSource(folder), CocoSource(folder, by_order=True)
    assert yolo.class_names == coco.class_names and not yolo.skipped
    for ours, expected in zip(yolo.examples("train"), coco.examples("train"), strict=True):
        np.testing.assert_allclose(ours.boxes, expected.boxes, atol=1e-4)
        np.testing.assert_array_equal(ours.labels, expected.labels)
        np.testing.assert_array_equal(ours.mask(0), expected.mask(0))
        np.testing.assert_array_equal(ours.read(), expected.read())
    assert perfect(yolo)["box_ap"] == pytest.approx(1.0) and perfect(yolo)["count"] == len(IMAGES)


def test_hostile_lines_are_counted_and_left_out(folder, caplog):
    lines = [
        *("x 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1", "0 0.5 nan 0.1 0.1", "0 0.1 0.2 0.3 0.4 0.5", "\xff"),
        *("2 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1"),
        *("0 0.5 0.5 -0.1 0.1", "0 3 3 0.1 0.1", "0 0.5 0.5 0 0"),
    ]
    with (folder / "labels/val/a.txt").open("a", encoding="latin-1") as file:
        file.write("\n".join(lines))
    (folder / "val2017/c.png").write_text("no image")
    with caplog.at_level(logging.WARNING):
        source = YoloSource(folder, splits=("validation",))
    assert source.skipped == {
        "objects that cannot be read": 5,
        "objects of a class without a name": 2,
        "objects without a box inside the image": 3,
        "images that cannot be opened": 1,
    }
    assert "left out are 5 objects that cannot be read" in caplog.text
    assert [len(example.boxes) for example in source.examples("validation")] == [1, 1]


def test_a_folder_of_another_form_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*classes\.txt"):
        YoloSource(tmp_path)
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no class"):
        YoloSource(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(FileNotFoundError, match="the images of YOLO's labels"):
        YoloSource(tmp_path)
