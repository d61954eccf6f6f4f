"""Annotations as they come: what is wrong in them is counted and left out, or one line; no figure is wrong for it."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from eca_jax.data import objects
from eca_jax.data.batch import MASK
from eca_jax.data.sources.coco import CocoSource
from eca_jax.data.sources.segments import runs_of, uncompressed
from eca_jax.tasks.coco import CocoMeter

pytest.importorskip("pycocotools")
LAYOUT = objects.Layout((64, 96), 48, 80, objects=5, mask_size=14)
NAN, INFINITE = float("nan"), float("inf")
IMAGES = [
    {"id": 5, "file_name": "a.png", "width": 20, "height": 60},
    {"id": 6, "file_name": "b.png", "width": 50, "height": 40},
]
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
GOOD = {"id": 0, "image_id": 5, "category_id": 3, "bbox": [1, 2, 30, 40], "area": 9, "iscrowd": 0}
DOG = {"id": 1, "image_id": 6, "category_id": 9, "bbox": [4.0, 4.0, 20.0, 30.0], "segmentation": []}  # nothing else
BAD = {
    "objects with an id that is there twice": [GOOD, DOG],
    "objects without a box inside the image": [
        GOOD | {"bbox": box}
        for box in (
            *([1, 2, -3, 4], [1, 2, 3, NAN], [1, 2, INFINITE, 4], [500, 500, 10, 10], [-9, -9, 5, 5], [1, 2, 0, 4]),
            *([1, 2, 3], "1 2 3 4", None, [1, 2, "3", 4], {"x": 1}),
        )
    ],
    "objects of an unknown category": [GOOD | {"category_id": 77}, GOOD | {"category_id": None}],
    "objects of an unknown image": [GOOD | {"image_id": 99}],
    "objects that cannot be read": [[1, 2], None, GOOD | {"image_id": [5]}, GOOD | {"category_id": {}}],
}


def written(root, annotations, images=IMAGES, categories=CATEGORIES, validation=None):
    """A folder in COCO's layout, with images."""
    for folder in ("annotations", "train2017", "val2017"):
        (root / folder).mkdir()
    content = {"images": images, "categories": categories, "annotations": annotations}
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
    (root / "annotations/instances_val2017.json").write_text(json.dumps(validation or content))
    for folder in ("train2017", "val2017"):
        for image in IMAGES:
            noise = np.random.default_rng(0).integers(0, 255, (image["height"], image["width"], 3), np.uint8)
            Image.fromarray(noise).save(root / folder / image["file_name"])
    return root


def perfect(source):
    """COCO's figures of the ground truth itself given as detections."""
    meter = CocoMeter(source, "validation")
    layout = objects.Layout((64, 96), 48, 80, objects=8, mask_size=28)
    for batch in objects.eval_batches(source, "validation", layout, batch_size=2):
        scale = np.tile(batch["scale"][:, ::-1], 2)[:, None]
        outputs = {key: batch[key] for key in ("labels", "valid", "number", MASK)}
        meter.add(outputs | {"boxes": batch["boxes"] / scale, "scores": np.where(batch["valid"], 0.9, 0)})
    return meter.result()


def test_hostile_annotations_are_counted_and_move_no_figure(tmp_path, caplog):
    bad = [entry for reason in list(BAD)[1:] for entry in BAD[reason]]
    numbered = [entry | {"id": 100 + i} if isinstance(entry, dict) else entry for i, entry in enumerate(bad)]
    crowd = GOOD | {
        "id": 50,
        "image_id": 6,
        "bbox": [0, 0, 50, 10],
        "iscrowd": 1,
        "segmentation": {"counts": "?", "size": []},
    }
    annotations = [GOOD, DOG, *BAD["objects with an id that is there twice"], *numbered, crowd]
    with caplog.at_level(logging.WARNING):
        source = CocoSource(written(tmp_path, annotations), by_order=True, splits=("validation",))
    assert source.skipped == {reason: len(entries) for reason, entries in BAD.items()}
    assert "11 objects without a box inside the image" in caplog.text
    cat, dog = source.examples("validation")
    np.testing.assert_array_equal(cat.boxes, [[1, 2, 20, 42]])  # cut to the image, as torchvision does it
    assert (cat.labels.tolist(), dog.labels.tolist()) == ([1], [2])
    assert source.class_names == ["background", "cat", "dog"]
    truth = source.ground_truth("validation")["annotations"]
    assert [entry["id"] for entry in truth] == [1, 2, 3] and [entry["iscrowd"] for entry in truth] == [0, 0, 1]
    result = perfect(source)
    assert result["box_ap50"] == pytest.approx(1.0)  # at higher IoU the cat's cut box differs from its annotation
    assert result["count"] == 2


def test_images_without_a_name_or_a_size_or_there_twice_are_left_out(tmp_path):
    broken = [{"id": 7}, {"id": 8, "file_name": "c", "width": 0, "height": 5}, {"id": "x"}, None, IMAGES[0]]
    source = CocoSource(written(tmp_path, [GOOD, DOG], images=[*IMAGES, *broken]))
    assert [example.image_id for example in source.examples("train")] == [5, 6]
    assert source.skipped["images without a name or a size"] == 2 * 4
    assert source.skipped["images with an id that is there twice"] == 2
    assert perfect(source)["count"] == 2


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not COCO's JSON"),
        ("[]", "is not COCO's JSON"),
        ("[" * 100_000, "is not COCO's JSON"),
        ('{"images": [], "annotations": []}', "is not COCO's JSON: 'categories'"),
        ('{"images": {}, "annotations": [], "categories": []}', "have to be lists"),
        ('{"images": [], "annotations": [], "categories": []}', "category ids have to be different numbers from 1 on"),
        ('{"images": [], "annotations": [], "categories": [{"id": "3", "name": "cat"}]}', "'3' is no integer"),
        ('{"images": [], "annotations": [], "categories": [{"id": 0, "name": "cat"}]}', "from 1 on"),
    ],
)
def test_a_file_that_is_no_coco_is_one_line(tmp_path, content, message):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        CocoSource(tmp_path, splits=("validation",))
    assert "\n" not in str(raised.value)


def test_a_category_of_two_names_and_a_missing_file_are_one_line(tmp_path):
    other = {"images": IMAGES, "annotations": [], "categories": [{"id": 3, "name": "lynx"}]}
    written(tmp_path, [GOOD], validation=other)
    with pytest.raises(ValueError, match=r"category 3 is 'cat' in instances_train2017\.json and 'lynx'"):
        CocoSource(tmp_path)
    with pytest.raises(FileNotFoundError, match="a COCO folder has"):
        CocoSource(tmp_path / "nowhere")


def test_a_missing_image_is_skipped_in_training_and_an_error_in_evaluation(tmp_path, caplog):
    source = CocoSource(written(tmp_path, [GOOD, DOG]))
    for folder in ("train2017", "val2017"):
        (tmp_path / folder / "b.png").unlink()
    batch = next(objects.train_batches(source, LAYOUT, batch_size=2, seed=0))
    assert batch[MASK].sum() == 1 and "there is no image" in caplog.text
    with pytest.raises(FileNotFoundError, match="there is no image"):
        next(objects.eval_batches(source, "validation", LAYOUT, batch_size=2))


def test_of_ten_thousand_objects_the_largest_are_kept(tmp_path):
    many = [GOOD | {"id": i, "bbox": [i % 20, i // 500, 1 + (i == 77), 1 + (i == 77)]} for i in range(10_000)]
    source = CocoSource(written(tmp_path, many), splits=("train",))
    (example,) = source.examples("train")
    row = objects.make_row(example, 0, False, LAYOUT)
    assert len(example.boxes) == 10_000 and row["valid"].sum() == 5
    assert example.boxes[77].tolist() == [17, 0, 19, 2]
    areas = np.prod(row["boxes"][:, 2:] - row["boxes"][:, :2], axis=1)
    assert areas.max() == pytest.approx(4 * row["scale"].prod(), rel=1e-4)


def test_masks_are_pycocotools_and_what_is_none_is_the_box():
    from pycocotools import mask as coder

    rng = np.random.default_rng(0)
    for _ in range(20):
        size = tuple(int(side) for side in rng.integers(3, 40, 2))
        mask = np.asfortranarray(rng.random(size) < rng.random(), np.uint8)
        runs = coder.encode(mask)
        assert uncompressed(runs["counts"]) == coder_lengths(mask)
        for counts in (runs["counts"], runs["counts"].decode(), coder_lengths(mask)):
            np.testing.assert_array_equal(coder.decode(runs_of({"size": list(size), "counts": counts}, size)), mask)
    triangle = [1.0, 1.0, 9.0, 1.0, 5.0, 9.0]
    expected = coder.merge(coder.frPyObjects([triangle], 12, 10))
    hostile = [[1, 2, 3, 4], [1, 2, 3], [NAN] * 6, [1, 2, 3, 4, 5, "6"], "polygon", [1e300] * 6]
    assert runs_of([*hostile, triangle], (12, 10)) == expected
    for wrong in (
        *(hostile, [], None, 7, "x", {}, {"size": [12, 10]}, {"size": [10, 12], "counts": [120]}),
        *({"size": [12, 10], "counts": counts} for counts in ([121], [-1, 121], [1.5], "~~~~", "1" * 50, b"\xff", [])),
    ):
        assert runs_of(wrong, (12, 10)) is None


def coder_lengths(mask):
    """Run lengths down the columns, zeros first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, len(flat)]).tolist()
    return [0, *lengths] if flat[0] else lengths
