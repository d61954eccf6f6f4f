"""`eca_jax.Detector` and the evaluation against the whole of torchvision's Mask R-CNN, from pixels on."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
import peers  # noqa: E402
from test_detectors import flax_model, variables_of  # noqa: E402

from eca_jax.data.sources.checked import Example  # noqa: E402
from eca_jax.inference.detector import Detector  # noqa: E402
from eca_jax.models import Preprocessing  # noqa: E402
from eca_jax.tasks.coco import coco_figures, encoded  # noqa: E402
from eca_jax.tasks.detection import Detection  # noqa: E402
from eca_jax.training.evaluate import evaluate_weights  # noqa: E402
from eca_jax.weights.card import Card  # noqa: E402
from eca_jax.weights.load import Weights  # noqa: E402

SHORT, LONG = 96, 160  # pixels of the sides, at most
RESIZED = [(70, 100), (130, 90), (64, 64), (230, 90)]  # broad, upright, square, and as long as may be
WHOLE = [(96, 144), (128, 96)]  # which need no resizing, so that as bytes, in the evaluation, they lose nothing
SIZES = RESIZED + WHOLE
MODEL = "mask_rcnn_resnet50_fpn"
CLASSES = 7


@pytest.fixture(scope="module")
def pictures():
    """Noise in three octaves, so that it has structure at every level of the pyramid."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in SIZES:
        image = sum(
            np.kron(rng.normal(0, 40, (-(-height // cell), -(-width // cell), 3)), np.ones((cell, cell, 1)))[
                :height, :width
            ]
            for cell in (1, 8, 32)
        )
        images.append(np.clip(image + 128, 0, 255).astype(np.uint8))
    return images


def torchvisions(pictures, seed):
    """torchvision's detector, and what it, called as its users call it, returns for each image by itself."""
    few = {"rpn_post_nms_top_n_test": 100, "box_detections_per_img": 30}
    peer = peers.detector("mask_rcnn", CLASSES, min_size=SHORT, max_size=LONG, seed=seed, **few)
    with peers.plain_operators():
        found = [peer([torch.tensor(image).permute(2, 0, 1) / 255])[0] for image in pictures]
    return peer, found


@pytest.fixture(scope="module")
def expected(pictures):
    return torchvisions(pictures, seed=0)


@pytest.fixture(scope="module")
def weights(expected):
    model = flax_model("mask_rcnn", num_classes=CLASSES, rule_options={"rpn_after": 100, "detections": 30})
    card = Card(MODEL, {}, Preprocessing(image_size=SHORT, crop_pct=1.0), task="detection", best="box_ap")
    return Weights(card, model, variables_of(model, expected[0]))


@pytest.mark.slow
def test_a_detector_finds_what_torchvisions_finds(pictures, expected, weights):
    """On pictures of four shapes, by three networks."""
    detector, pictures = Detector.of(weights), pictures[: len(RESIZED)]
    for seed in (0, 1, 2):
        peer, expectations = expected if seed == 0 else torchvisions(pictures, seed)
        detector.variables = variables_of(weights.model, peer)
        ours = detector(pictures)
        assert [found["masks"].shape[1:] for found in ours] == RESIZED
        for found, theirs in zip(ours, expectations, strict=False):
            assert_same_objects(found, {name: value.numpy() for name, value in theirs.items()})


def assert_same_objects(found, theirs):
    assert len(found["scores"]) == len(theirs["scores"]) > 10
    # At the cut (the 30 surest) scores of random weights are equal to rounding: who is in is anybody's guess.
    sure = np.flatnonzero(theirs["scores"] > theirs["scores"].min() + 1e-4)
    assert len(sure) > 10
    differing = foreground = 0
    for k in sure:
        distance = np.abs(found["boxes"] - theirs["boxes"][k]).max(axis=1)
        distance[found["labels"] != theirs["labels"][k]] = np.inf
        nearest = np.argmin(distance)
        assert distance[nearest] < 1e-2 and abs(found["scores"][nearest] - theirs["scores"][k]) < 1e-5
        mask = theirs["masks"][k, 0] > 0.5
        differing += np.sum((found["masks"][nearest] > 0.5) != mask)
        foreground += np.sum(mask)
    assert foreground > 500 and differing <= 1e-4 * foreground


class Known:
    """A data set whose objects are some of torchvision's detections, a pixel or two aside: figures between 0 and 1."""

    name = "known"
    class_names = ("background", *map(str, range(1, CLASSES)))
    category_ids = tuple(range(CLASSES))

    def __init__(self, pictures, found):
        self.annotations, self.pictures = [], pictures
        for number, detections in enumerate(found):
            for k in range(0, len(detections["labels"]), 2):
                x1, y1, x2, y2 = (float(value) for value in np.round(detections["boxes"][k].numpy()) + k % 3)
                mask = np.roll(detections["masks"][k, 0].numpy() > 0.5, k % 3, axis=1)
                self.annotations.append(
                    {
                        "id": len(self.annotations) + 1,
                        "image_id": number + 10,
                        "category_id": int(detections["labels"][k]),
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": int(k == 4),
                        "segmentation": encoded(mask),
                    }
                )

    def examples(self, split):
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), lambda k: None
        return [
            Example(number + 10, image.shape[:2], lambda image=image: image, *nothing)
            for number, image in enumerate(self.pictures)
        ]

    def ground_truth(self, split):
        images = [{"id": e.image_id, "height": e.size[0], "width": e.size[1]} for e in self.examples(split)]
        categories = [{"id": i, "name": str(i)} for i in range(1, CLASSES)]
        return {"images": images, "annotations": self.annotations, "categories": categories}


@pytest.mark.slow
def test_the_evaluation_gives_pycocotools_figures_of_torchvisions_own_detections(pictures, expected, weights):
    detections = expected[1][len(RESIZED) :]
    source = Known(pictures[len(RESIZED) :], detections)
    theirs = []
    for number, found in enumerate(detections):
        for box, label, score, mask in zip(
            *(found[k].numpy() for k in ("boxes", "labels", "scores", "masks")), strict=True
        ):
            x1, y1, x2, y2 = map(float, box)
            place = {"image_id": number + 10, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            theirs.append(place | {"score": float(score), "segmentation": encoded(mask[0] > 0.5)})
    figures = {kind: coco_figures(source.ground_truth(""), theirs, kind) for kind in ("bbox", "segm")}
    task = dataclasses.replace(Detection.of_weights(weights, "shapes", "", 2), open_source=lambda: source)
    metrics = evaluate_weights(task, weights.variables, 2)
    assert metrics["count"] == len(WHOLE)
    for name, value in (figures["bbox"] | figures["segm"]).items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    assert 0.1 < figures["bbox"]["box_ap"] < 0.9 and 0.1 < figures["segm"]["mask_ap"] < 0.9
