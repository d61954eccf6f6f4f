"""COCO as TFDS's own builder prepares it, beside COCO's JSON: the same examples as the folder's."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from eca_jax.data.sources.coco import CocoSource

pytestmark = pytest.mark.slow
pytest.importorskip("tensorflow_datasets")
CATEGORIES = [{"id": i, "name": f"c{i}"} for i in range(2, 82)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images in COCO's layout; only JPEG files, as TFDS has them."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for split, first, count in (("train2017", 100, 3), ("val2017", 200, 2)):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(first, first + count):
            height, width = (int(side) for side in rng.integers(30, 60, 2))
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": height, "width": width})
            pixels = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((10, 10, 1)))[:height, :width].astype(np.uint8)
            Image.fromarray(pixels).save(root / split / images[-1]["file_name"])
            outline = [[3.5, 4.0, 20.25, 4.0, 20.25, 25.5]]
            thing = {"image_id": number, "category_id": 2 + number % 80, "bbox": [3.5, 4.0, 16.75, 21.5], "iscrowd": 0}
            annotations.append(thing | {"id": number, "area": 180.0625, "segmentation": outline})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """`coco/2017` of these images by TFDS, without its downloads, and the JSON beside it."""
    from eca_jax.data.runtime import tensorflow

    tensorflow()
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    root = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("coco/2017", data_dir=str(root), try_gcs=False)

    def generators(self, _):
        place = {"image_dir": str(folder), "annotation_dir": str(folder), "panoptic_dir": None}
        parts = {"train": "train2017", "validation": "val2017"}
        return {
            split: self._generate_examples(**place, split_name=part, annotation_type="bboxes")
            for split, part in parts.items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(builder), "_split_generators", generators)
        builder.download_and_prepare()
    shutil.copytree(folder / "annotations", root / "annotations")
    return root


@pytest.mark.parametrize("split", ["train", "validation"])
def test_tfds_has_the_folders_images_and_the_jsons_objects(folder, prepared, split):
    from eca_jax.data.sources.coco_records import TfdsCocoSource

    ours, theirs = TfdsCocoSource(prepared, by_order=True), CocoSource(folder, by_order=True)
    assert ours.class_names == theirs.class_names and not ours.skipped
    assert ours.ground_truth(split) == theirs.ground_truth(split)
    examples = ours.examples(split)
    assert len(examples) == len(theirs.examples(split)) == (3 if split == "train" else 2)
    for example, expected in zip(examples, theirs.examples(split), strict=True):
        assert (example.image_id, example.size) == (expected.image_id, expected.size)
        np.testing.assert_array_equal(example.read(), expected.read())
        np.testing.assert_array_equal(example.boxes, expected.boxes)
        np.testing.assert_array_equal(example.labels, expected.labels)
        assert example.mask(0).any()
        np.testing.assert_array_equal(example.mask(0), expected.mask(0))


def test_what_is_not_there_is_one_line(prepared, tmp_path):
    from eca_jax.data.sources.coco_records import TfdsCocoSource

    with pytest.raises(FileNotFoundError, match="coco/2017 is not prepared"):
        TfdsCocoSource(tmp_path)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    (file,) = (tmp_path / "coco/2017").glob("*/coco-train*")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is truncated"):
        TfdsCocoSource(tmp_path)
    shutil.rmtree(tmp_path / "annotations")
    with pytest.raises(FileNotFoundError, match=r"there is no .*instances_train2017"):
        TfdsCocoSource(tmp_path)
