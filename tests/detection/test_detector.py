"""`eca_jax.Detector` and `eca-jax detect`: photographs in, objects out."""

import json

import numpy as np
import pytest

from eca_jax.commands.main import main


def test_pasted_masks_are_torchvisions():
    torch = pytest.importorskip("torch")
    from eca_jax.models.detection.paste import paste
    from eca_jax.weights.torch.peer import import_torchvision

    import_torchvision()
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    rng = np.random.default_rng(0)
    masks = rng.uniform(size=(5, 28, 28)).astype(np.float32)
    boxes = np.array([[3, 4, 40, 30], [-5, -5, 20, 20], [50, 40, 70, 60], [10, 10, 10.4, 10.2], [0, 0, 64, 48]])
    expected = paste_masks_in_image(torch.tensor(masks)[:, None], torch.tensor(boxes).float(), (48, 64))
    for mask, box, wanted in zip(masks, boxes, expected[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(paste(mask, box, (48, 64)), wanted, atol=1e-5)


@pytest.mark.parametrize("rules", ["torchvision", "mmdet1"])
@pytest.mark.parametrize("size", [(70, 100), (130, 90), (64, 64), (300, 40), (40, 300)])
def test_the_canvas_of_either_orientation_is_undone(size, rules):
    """A box over the whole image on its canvas is one over the whole image."""
    from eca_jax.inference.detector import Detector
    from eca_jax.models import Preprocessing, create_model

    model = create_model("retinanet_resnet50_fpn", rules=rules)
    detector = Detector(model, {}, Preprocessing(image_size=96, crop_pct=1.0))
    placed = detector.place(np.zeros((*size, 3), np.uint8))
    assert placed.canvas.shape == ((96, 160, 3) if size[1] >= size[0] else (160, 96, 3))
    height, width = placed.size
    assert (height, width) == detector.resized(*size) and (min(placed.size) == 96 or max(placed.size) == 160)
    found = {"boxes": np.array([[0, 0, width, height]], np.float32), "scores": np.ones(1), "labels": np.ones(1)}
    (box,) = detector.select(found | {"valid": np.ones(1, bool)}, placed, 0.5)["boxes"]
    # mmdetection's factor is one for both axes, and not what the rounded sizes make of it.
    np.testing.assert_allclose(box, [0, 0, size[1], size[0]], atol=1e-4 if rules == "torchvision" else 1.0)


def test_what_is_no_image_or_no_detector_is_one_line(tmp_path, capsys):
    from eca_jax.inference.detector import as_pixels

    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        as_pixels(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="there is no image"):
        as_pixels(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="uint8"):
        as_pixels(np.zeros((4, 4, 3)))
    assert main(["detect", "--weights", str(tmp_path / "nowhere"), str(tmp_path / "a.jpg")]) == 2
    assert "there is no file or directory" in capsys.readouterr().err


def test_pictures_have_their_objects_drawn_and_json_is_cocos():
    from eca_jax.commands.detect import _json, drawn

    mask = np.zeros((1, 60, 80), np.float32)
    mask[0, 20:40, 10:50] = 0.9
    found = {
        "boxes": np.array([[10, 20, 50, 40]], np.float32),
        "scores": np.array([0.75], np.float32),
        "labels": np.array([1]),
        "masks": mask,
    }
    image = np.asarray(drawn(np.full((60, 80, 3), 255, np.uint8), found, ["cat"]))
    assert tuple(image[30, 30]) != (255, 255, 255) and tuple(image[50, 70]) == (255, 255, 255)
    (cat,) = json.loads(_json("a.png", found, ["cat"]))["objects"]
    assert cat == {"category_id": 1, "name": "cat", "bbox": [10.0, 20.0, 40.0, 20.0], "score": 0.75}
