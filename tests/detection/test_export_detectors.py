"""A detector as one file gives what the model gives."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import eca_jax
from eca_jax.commands.main import main
from eca_jax.inference.detector import Detector
from eca_jax.inference.export import export, export_saved_model
from eca_jax.inference.exported import load_exported_detector
from eca_jax.models import Preprocessing
from eca_jax.weights.card import Card
from eca_jax.weights.load import Weights

NAME = "mask_rcnn_eca_resnet50_fpn"
OPTIONS = {
    "backbone": "eca_resnet18",
    "backbone_options": {"stage_sizes": (1, 1, 1, 1)},
    "kernel_sizes": "adaptive",
    "width": 16,
    "num_classes": 4,
    "rules": "torchvision",
    "rule_options": {"rpn_before": 30, "rpn_after": 20, "detections": 6, "score": 0.1},
}


@pytest.fixture(scope="module")
def weights():
    """Weights by their fan-in, so that scores and boxes are spread."""
    model = eca_jax.create_model(NAME, **OPTIONS)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)))
    rng = np.random.default_rng(0)
    flat = {}
    for path, shape in flatten_dict(shapes).items():
        noise = rng.normal(size=shape.shape).astype(np.float32)
        if len(shape.shape) > 1:
            quiet = 0.03 if path[-2] in ("bbox_pred", "cls_logits", "cls_score") else 1
            noise *= quiet * 1.4 / np.sqrt(np.prod(shape.shape[:-1]))
        if path[-1] == "bias":
            noise *= 0.1  # or every box would be moved off its image
        flat[path] = np.abs(noise) + 0.5 if path[-1] in ("var", "scale") else noise
    how = Preprocessing(image_size=64, crop_pct=1.0)
    return Weights(Card(NAME, OPTIONS, how, task="detection", best="box_ap"), model, unflatten_dict(flat))


@pytest.mark.slow
def test_an_exported_detector_detects_what_the_model_detects(weights, tmp_path):
    """Of its convolutions the exported program has other forms, and a random network magnifies their roundings."""
    export(tmp_path / "d.npz", weights, platforms=("cpu",))
    with pytest.raises(ValueError, match="load_exported_detector reads it"):
        eca_jax.load_exported(tmp_path / "d.npz")
    exported = load_exported_detector(tmp_path / "d.npz")
    assert exported.metadata["canvas"] == [64, 128]
    detector = Detector.of(weights)
    for sizes in ([[64, 100], [64, 90]], [[106, 64]]):
        pictures = [np.random.default_rng(1).integers(0, 255, (*size, 3), np.uint8) for size in sizes]
        placed = [detector.place(picture) for picture in pictures]
        assert [list(place.size) for place in placed] == sizes  # the detector resizes nothing
        images = np.zeros((len(sizes), *placed[0].canvas.shape), np.uint8)
        for image, picture in zip(images, pictures, strict=True):
            image[: picture.shape[0], : picture.shape[1]] = picture
        found = exported(images, sizes)
        assert found["valid"].sum() >= 4 * len(sizes) and found["masks"].shape == (len(sizes), 6, 28, 28)
        for i, place in enumerate(placed):
            expected = detector.run(place)
            np.testing.assert_array_equal(found["labels"][i], expected["labels"])
            np.testing.assert_array_equal(found["valid"][i], expected["valid"])
            np.testing.assert_allclose(found["boxes"][i], expected["boxes"], rtol=0, atol=1e-2)
            np.testing.assert_allclose(found["scores"][i], expected["scores"], rtol=0, atol=1e-4)
            np.testing.assert_allclose(found["masks"][i], expected["masks"], rtol=0, atol=5e-3)
    with pytest.raises(ValueError, match="sizes must be"):
        exported(images, np.array(sizes) + 64)
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, 64, 128, 3\] or"):
        exported(images[:, :32], sizes)


def test_a_saved_model_of_a_detector_is_refused_in_a_line(weights, tmp_path, capsys):
    with pytest.raises(ValueError, match="is a detector"):
        export_saved_model(tmp_path / "saved", weights)
    assert main(["export", "--weights", str(tmp_path / "none"), str(tmp_path / "out.npz")]) == 2
    assert "there is no file or directory" in capsys.readouterr().err
