"""`/v1/detect`: a small random detector's boxes and masks are those of `eca_jax.Detector`, and refusals say why."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import ExifTags, Image
from servers import encoded, ready, serving

import eca_jax
from eca_jax.inference.detector import as_pixels
from eca_jax.serving.models import Source

RAW = [("content-type", "application/octet-stream")]


def unfolded(counts, size):
    """The mask of COCO's uncompressed run lengths."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[::-1]).T


def test_run_lengths_are_cocos():
    masks = pytest.importorskip("pycocotools.mask")
    from eca_jax.serving.detection import run_lengths

    random = np.random.default_rng(0)
    for shape, top, left, part in (
        ((9, 7), 2, 3, random.uniform(size=(4, 3))),
        ((9, 7), 0, 0, random.uniform(size=(9, 7))),
        ((9, 7), 0, 0, np.ones((9, 7))),
        ((9, 7), 0, 0, np.zeros((0, 0))),
        ((9, 7), 5, 0, np.ones((4, 7))),
        ((1, 1), 0, 0, np.ones((1, 1))),
    ):
        mask = np.zeros(shape)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part
        counts = run_lengths(top, left, part, shape)
        np.testing.assert_array_equal(unfolded(counts, shape), mask > 0.5)
        by_coco = masks.frPyObjects({"size": list(shape), "counts": counts}, *shape)
        assert by_coco == masks.encode(np.asfortranarray(mask > 0.5, dtype=np.uint8))


@pytest.fixture(scope="module")
def detector(detector_weights, weights):
    sources = Source(str(detector_weights), "objects"), Source(str(weights), "classes")
    service, running = serving(*sources, batch_sizes=(1,), outputs=("logits",))
    with running:
        ready(service)
        running.service = service
        yield running


def blank(*size):
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return file.getvalue()


def on_its_side():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.open(io.BytesIO(encoded((90, 60)))).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.slow
def test_objects_are_the_detectors_to_the_last_bit(detector, detector_weights):
    own = eca_jax.Detector.load(detector_weights)
    images = [encoded((100, 70)), encoded((50, 80), "JPEG", 1), on_its_side()]
    boundary = [("content-type", "multipart/form-data; boundary=XX")]
    form = b"".join(
        b'--XX\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + image + b"\r\n"
        for image in images
    )
    answer = detector.call("POST", "/v1/detect", form + b"--XX--\r\n", boundary, b"threshold=0").json()
    assert answer["model"] == "objects" and len(answer["detections"]) == 3
    for image, found in zip(images, answer["detections"], strict=True):
        picture = Image.open(io.BytesIO(image))
        (expected,) = own(picture)
        assert (found["height"], found["width"]) == as_pixels(picture).shape[:2]
        assert len(found["objects"]) == len(expected["boxes"]) > 0
        for index, one in enumerate(found["objects"]):
            np.testing.assert_array_equal(np.array(one["box"], np.float32), expected["boxes"][index])
            assert np.float32(one["score"]) == expected["scores"][index]
            assert one["class"] == expected["labels"][index]
            assert one["name"] == ("", "cat", "dog", "fox")[one["class"]]
            mask = unfolded(one["mask"]["counts"], one["mask"]["size"])
            np.testing.assert_array_equal(mask, expected["masks"][index] > 0.5)
    assert [detection["width"] for detection in answer["detections"]] == [100, 50, 60]


@pytest.mark.slow
def test_forms_options_and_refusals(detector):
    image = encoded((100, 70))
    whole = detector.call("POST", "/v1/detect", image, RAW, b"threshold=0").json()["detections"][0]
    body = json.dumps({"images": [base64.b64encode(image).decode()], "threshold": 0, "masks": False}).encode()
    plain = detector.call("POST", "/v1/detect", body, [("content-type", "application/json")]).json()["detections"][0]
    assert plain["objects"] == [{k: v for k, v in one.items() if k != "mask"} for one in whole["objects"]]
    best = whole["objects"][0]["score"]
    few = detector.call("POST", "/v1/detect", image, RAW, f"threshold={best}".encode()).json()["detections"][0]
    assert [one["score"] for one in few["objects"]] == [best]
    assert detector.call("POST", "/v1/detect", blank(60_000, 1), RAW).status == 200
    for content, query, status, reason in (
        (b"junk", b"", 400, "not an image"),
        (image[:500], b"", 400, "decode"),
        (blank(1001, 1000), b"", 413, "pixels"),
        (image, b"threshold=1.5", 400, "threshold must be a number from 0 to 1"),
        (image, b"threshold=nan", 400, "threshold must be"),
        (image, b"threshold=" + b"1" * 99, 400, "threshold must be"),
        (image, b"top=3", 400, "there is no option 'top'"),
        (image, b"masks=2", 400, "masks must be true or false"),
        (image, b"model=classes", 404, "classes is no detector"),
    ):
        answer = detector.call("POST", "/v1/detect", content, RAW, query)
        assert (answer.status, reason in answer.json()["error"]) == (status, True), answer.body
    for path in ("/v1/predict", "/v2/models/objects/infer"):
        answer = detector.call("POST", path, image, RAW)
        assert answer.status == 404 and "/v1/detect" in answer.json()["error"]
    objects, classes = detector.call("GET", "/v1/models").json()["models"]
    assert (objects["task"], objects["returns"], objects["num_classes"]) == ("detection", ["boxes", "masks"], 4)
    assert (classes["task"], classes["returns"]) == ("classification", ["logits"])
    assert detector.service.batcher.places_taken == detector.service.batcher.waiting == 0
