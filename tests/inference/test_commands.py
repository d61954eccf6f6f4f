"""`predict` and `evaluate` on weights and images that the tests make."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import eca_jax
from eca_jax import cli
from eca_jax.data import eval_image
from eca_jax.inference import Predictor
from eca_jax.models import Preprocessing
from eca_jax.training.checkpoint import save_variables

PREPROCESSING = {"image_size": 32, "resize_size": 40, "interpolation": "bicubic", "mean": [0.4] * 3, "std": [0.3] * 3}


@pytest.fixture(scope="module")
def model():
    return eca_jax.create_model("eca_resnet18", num_classes=4, small_images=True)


@pytest.fixture(scope="module")
def variables(model):
    """Running variances of an untrained network are 1 whatever its activations; a small head keeps logits apart."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 32, 32, 3)))
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return np.ones(leaf.shape, np.float32)
        return (random.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def weights(variables, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w"
    meta = {"model": "eca_resnet18", "num_classes": 4, "overrides": {"small_images": True}}
    save_variables(path, variables, meta | {"preprocessing": PREPROCESSING})
    return path


@pytest.fixture
def images(tmp_path):
    paths = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), np.uint8)
        paths.append(str(tmp_path / f"{seed}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


def by_hand(model, variables, paths):
    pixels = np.stack([eval_image(path, 32, 40, "bicubic") for path in paths]) / np.float32(255)
    return jax.nn.softmax(model.apply(variables, (pixels - np.float32(0.4)) / np.float32(0.3)))


def test_predict_prints_the_models_probabilities(model, variables, weights, images, capsys):
    assert cli.main(["predict", "--weights", str(weights), "--json", "--top", "4", "--batch_size", "2", *images]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == images
    for line, expected in zip(lines, by_hand(model, variables, images), strict=True):
        found = [(c["class"], c["probability"]) for c in line["classes"]]
        assert [c for c, _ in found] == np.argsort(-expected).tolist()
        np.testing.assert_allclose([p for _, p in found], np.sort(expected)[::-1], rtol=1e-4)


def test_predict_names_the_classes(weights, images, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    arguments = ["--weights", str(weights), "--classes", str(tmp_path / "names.txt"), images[0]]
    assert cli.main(["predict", *arguments]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("ant", "bee", "cat", "dog"))


def test_number_of_images_does_not_change_a_prediction(model, variables):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    predictor = Predictor(model, variables, Preprocessing(image_size=32), batch_size=2)
    np.testing.assert_allclose(predictor(images)[4:], predictor(images[4:]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="uint8"):
        predictor(images.astype(np.float32))


@pytest.mark.slow
def test_evaluate_counts_every_image_once(weights, folder_dir, capsys):
    options = ["--data", "folder", "--data_dir", str(folder_dir), "--batch_size", "4", "--json"]
    assert cli.main(["evaluate", "--weights", str(weights), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["count"] == sum(1 for _ in (folder_dir / "val").glob("*/*"))
    assert result["top5"] == 1.0  # four classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--weights", "WEIGHTS", "nothing.jpg"], "nothing.jpg"),
        (["predict", "--weights", "WEIGHTS", __file__], "cannot decode"),
        (["predict", "--weights", "no/such", "x.jpg"], "no/such"),
        (["predict", "--weights", "WEIGHTS", "--model", "resnet18", "x.jpg"], "not resnet18"),
        (["predict", "--weights", "WEIGHTS", "--classes", __file__, "x.jpg"], "the model has 4"),
        (["evaluate", "--weights", "WEIGHTS", "--data", "folder", "--data_dir", "no/such"], "no/such"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, weights, capsys):
    arguments = [str(weights) if argument == "WEIGHTS" else argument for argument in arguments]
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
