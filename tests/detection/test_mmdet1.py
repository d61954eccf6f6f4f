"""The rules of mmdetection 1 against their restatement, from a file in the release's form on."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import mmdet1  # noqa: E402
from test_conversion import SHORT, filled  # noqa: E402

import eca_jax  # noqa: E402
from eca_jax.data import objects  # noqa: E402
from eca_jax.models.detection import matching  # noqa: E402
from eca_jax.models.detection.paste import paste  # noqa: E402
from eca_jax.weights.torch.state_dict import to_torch  # noqa: E402

CANVAS, SIZES = (96, 160), np.array([[90, 150], [60, 96]], np.int32)
QUIET = {"rpn_reg": 0.03, "retina_reg": 0.03, "fc_reg": 0.3, "rpn_cls": 0.03, "retina_cls": 0.03, "fc_cls": 0.1}


def released(name, path, kernel_sizes):
    """A file in the release's form: random weights by their fan-in, spread scores, 81 classes."""
    rng = np.random.default_rng(0)
    tensors = to_torch(filled(name, num_classes=81, kernel_sizes=kernel_sizes, **SHORT), name, **SHORT)
    for key, value in tensors.items():
        noise = rng.normal(size=value.shape).astype(np.float32)
        if value.ndim > 1:
            noise *= 1.4 / np.sqrt(value[0].size) * QUIET.get(key.split(".")[-2], 1)
        elif key.endswith("running_var"):
            noise = np.abs(noise) + 0.5
        elif key.endswith("weight"):
            noise = 1 + 0.3 * noise
        tensors[key] = 0.1 * noise if value.ndim == 1 and key.endswith(("bias", "mean")) else noise
    state = {f"module.{key}": torch.tensor(value) for key, value in tensors.items()}
    torch.save({"meta": {"epoch": 12}, "state_dict": state, "optimizer": {}}, path)
    return tensors


def compared(name, path, kernel_sizes, restated, **options):
    tensors = released(name, path, kernel_sizes)
    model, variables = eca_jax.load(path, name, **SHORT, **options)
    assert model.kernel_sizes == kernel_sizes and model.num_classes == 81
    images = np.random.default_rng(1).normal(size=(2, *CANVAS, 3)).astype(np.float32)
    import jax

    found = jax.jit(model.apply)(variables, images, SIZES)
    for i, (height, width) in enumerate(SIZES):
        rows, columns = -(-height // 32) * 32, -(-width // 32) * 32
        alone = np.zeros((1, 3, rows, columns), np.float32)
        alone[0, :, :height, :width] = images[i, :height, :width].transpose(2, 0, 1)
        ours = {
            key: np.asarray(value[i])[np.asarray(found["valid"][i])] for key, value in found.items() if key != "dropped"
        }
        boxes, scores, labels, *masks = restated(tensors, torch.tensor(alone), (int(height), int(width)))
        assert len(ours["labels"]) == len(labels) > 20
        for k in range(len(labels)):
            distance = np.abs(ours["boxes"] - boxes[k]).max(axis=1) + 1e6 * (ours["labels"] != labels[k])
            nearest = np.argmin(distance)
            assert distance[nearest] < 1e-2 and abs(ours["scores"][nearest] - scores[k]) < 1e-5
            if masks:
                np.testing.assert_allclose(ours["masks"][nearest], masks[0][k], atol=1e-4)


@pytest.mark.slow
def test_mask_rcnn_of_the_releases_form_detects_what_mmdetection_detects(tmp_path):
    few = {"rule_options": {"rpn_before": 200, "rpn_after": 100}}

    def restated(tensors, image, size):
        return mmdet1.mask_rcnn(tensors, image, size, before=200, after=100)

    compared("mask_rcnn_eca_resnet50_fpn", tmp_path / "m.pth", (3, 3, 7, 7), restated, **few)


@pytest.mark.slow
def test_retinanet_of_the_releases_form_detects_what_mmdetection_detects(tmp_path):
    compared("retinanet_eca_resnet50_fpn", tmp_path / "r.pth", (3, 3, 5, 7), mmdet1.retinanet)


@pytest.mark.parametrize("positive, negative, least", [(0.7, 0.3, 0.3), (0.5, 0.4, 0.0), (0.5, 0.5, 0.5)])
def test_anchors_are_assigned_as_in_mmdetection(positive, negative, least):
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 40, (300, 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 30, (300, 2))], axis=1).astype(np.float32)
    moved = boxes[:6] + np.array([1, 0, 2, 0])
    truths = np.concatenate([moved, boxes[3:5]]).astype(np.float32)
    ours = matching.match(
        *(truths, np.ones(8, bool), boxes, np.ones(300, bool)),
        positive=positive,
        negative=negative,
        least=least,
        best_to_own=True,
        offset=1.0,
    )
    expected = mmdet1.assigned(truths, boxes, positive, negative, least)
    np.testing.assert_array_equal(ours, expected)
    assert len(set(expected)) > 5


def test_images_are_resized_and_masks_pasted_as_in_mmdetection():
    layout = objects.Layout((800, 1344), 800, 1333, rounded=True)
    assert layout.size((480, 640)) == (800, 1067) and layout.size((289, 300)) == (800, 830)  # int(side * scale + 0.5)
    np.testing.assert_allclose(layout.scale((480, 640)), [800 / 480, 800 / 480], rtol=1e-6)
    rng = np.random.default_rng(0)
    for box in ([3.7, 4.2, 40.9, 30.1], [0, 0, 63, 47], [10, 10, 10.4, 10.2], [50.5, 40.5, 63, 47]):
        mask = rng.uniform(size=(28, 28)).astype(np.float32)
        x1, y1, x2, y2 = np.array(box, np.float32).astype(np.int32)
        size = (int(max(y2 - y1 + 1, 1)), int(max(x2 - x1 + 1, 1)))
        resized = torch.nn.functional.interpolate(torch.tensor(mask)[None, None], size=size, mode="bilinear")
        expected = np.zeros((48, 64), np.float32)
        expected[y1 : y1 + size[0], x1 : x1 + size[1]] = resized[0, 0].numpy()
        np.testing.assert_allclose(paste(mask, box, (48, 64), ring=False), expected, atol=1e-5)
