"""`eca_jax.Predictor` against `model.apply` on images prepared one by one."""

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image
from small_network import random_variables

import eca_jax
from eca_jax.data import eval_image
from eca_jax.models import Preprocessing
from eca_jax.weights.card import Card
from eca_jax.weights.load import Weights

FAMILIES = {
    "eca_resnet18": {"stage_sizes": (1, 1, 1, 1)},
    "eca_mobilenet_v2": {"width_mult": 0.5},
    "ecaresnet26t": {"stage_sizes": (1, 1, 1, 1)},
    "eca_resnext26ts": {"stage_sizes": (1, 1, 1, 1)},
    "eca_nfnet_l0": {"stage_sizes": (1, 1, 1, 1)},
    "eca_vovnet39b": {"stage_sizes": (1, 1, 1, 1)},
}


def random_images(count, seed=0):
    """Arrays uint8 [H, W, 3] of mixed sizes."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*random.integers(20, 90, 2), 3), np.uint8) for _ in range(count)]


def apply(model, variables, images, how, batch_size=None):
    """What the model itself says, of images prepared by the recipe."""
    pixels = np.stack([eval_image(i, how.image_size, how.resize_size, how.interpolation) for i in images])
    normalized = (pixels / np.float32(255) - np.float32(how.mean)) / np.float32(how.std)
    compiled = jax.jit(model.apply)
    parts = np.split(normalized, len(images) // (batch_size or len(images)))
    return jax.tree.map(lambda *outputs: np.concatenate(outputs), *[compiled(variables, part) for part in parts])


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("eca_resnet18", "eca_nfnet_l0") else pytest.param(name, marks=pytest.mark.slow)
        for name in FAMILIES
    ],
)
def test_every_family_predicts_what_the_model_does(name):
    model = eca_jax.create_model(name, num_classes=10, **FAMILIES[name])
    how = Preprocessing(image_size=32, crop_pct=0.8, interpolation="bicubic")
    variables = random_variables(model)
    weights = Weights(Card(name, {}, how), model, variables)
    predictor = eca_jax.Predictor(weights, batch_sizes=(8,))  # compiled in seconds
    images = random_images(64)
    assert_same(predictor(images), apply(model, variables, images, how, batch_size=8))


@pytest.fixture(scope="module")
def predictor(loaded):
    return eca_jax.Predictor(loaded, batch_sizes=(8, 1, 4))


def test_any_number_of_images_takes_one_program_a_batch_size(loaded, model, variables):
    images = random_images(19)
    expected = apply(model, variables, images, loaded.card.preprocessing)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    predictor = eca_jax.Predictor(loaded, batch_sizes=(8, 1, 4))
    assert predictor.batch_sizes == [1, 4, 8]
    assert len(compiled) == 3
    for count in (1, 2, 4, 5, 8, 9, 19):
        assert_same(predictor(images[:count]), expected[:count])
    assert len(compiled) == 3


def test_a_predictor_says_what_it_is(predictor):
    assert repr(predictor) == "<Predictor of ResNet: 4 classes, 32 pixels>"


def test_features_and_feature_maps(predictor, model, variables):
    images, how = random_images(3), predictor.preprocessing
    assert_same(predictor.features(images), apply(model.clone(num_classes=0), variables, images, how))
    maps = predictor.feature_maps(images)
    for found, expected in zip(maps, apply(model.clone(features_only=True), variables, images, how), strict=True):
        assert_same(found, expected)


def test_every_kind_of_image_is_read(predictor, tmp_path):
    pixels = random_images(1)[0]
    image, path, encoded = Image.fromarray(pixels), tmp_path / "image.png", io.BytesIO()
    image.save(path)
    image.save(encoded, "PNG")
    kinds = [pixels, image, path, str(path), encoded.getvalue(), jax.numpy.asarray(pixels), encoded]
    for kind in kinds:
        np.testing.assert_array_equal(predictor(kind), predictor([pixels]))
    with path.open("rb") as file:
        np.testing.assert_array_equal(predictor(file), predictor([pixels]))
    assert predictor(np.stack([pixels, pixels])).shape == (2, 4)
    for bad, message in (
        (pixels.astype(np.float32), "uint8"),
        (pixels[..., 0], rf"not uint8 \[{len(pixels)}, "),
        (b"no image", "cannot decode"),
        (tmp_path / "absent.png", "absent.png"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            predictor(bad)
    with pytest.raises(ValueError, match="no images"):
        predictor([])


def test_classes_come_with_probabilities_and_names(predictor, model, variables):
    images = random_images(2)
    probabilities = np.asarray(jax.nn.softmax(apply(model, variables, images, predictor.preprocessing)))
    np.testing.assert_allclose(predictor.probabilities(images), probabilities, rtol=1e-4)
    for found, expected in zip(predictor.top(images, k=3), probabilities, strict=True):
        assert [prediction.index for prediction in found] == np.argsort(-expected)[:3].tolist()
        assert [prediction.name for prediction in found] == [None] * 3


def test_threads_may_share_a_predictor(predictor):
    images = [random_images(3, seed) for seed in range(4)]
    expected = [predictor(own) for own in images]
    with ThreadPoolExecutor(4) as pool:
        for found, own in zip(pool.map(predictor, images * 3), expected * 3, strict=True):
            np.testing.assert_array_equal(found, own)


def test_stream_is_lazy_ordered_and_survives_bad_images(predictor):
    """400 images of mixed sizes, of which only a few are taken before the first result."""
    taken, bad = [], []

    def images():
        for index, pixels in enumerate(random_images(400)):
            taken.append(index)
            yield b"no image" if index % 50 == 7 else pixels

    stream = predictor.stream(images(), on_error=lambda image, error: bad.append(str(error)))
    first = next(stream)
    assert len(taken) < 100
    results = [first, *stream]
    assert len(bad) == 8
    assert len(results) == 392
    good = [pixels for index, pixels in enumerate(random_images(400)) if index % 50 != 7]
    for (image, _), expected in zip(results, good, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert_same(np.stack([logits for _, logits in results[380:]]), predictor(good[380:]))
    with pytest.raises(ValueError, match="cannot decode"):
        list(predictor.stream(images()))


def test_weights_are_loaded_by_name_in_the_dtype_asked_for(weights, predictor):
    images = random_images(4)
    half = eca_jax.Predictor.load(weights, "eca_resnet18", dtype=jax.numpy.bfloat16, batch_sizes=(4,))
    full = predictor(images)
    difference = np.abs(half(images) - full).max() / np.abs(full).max()
    assert 0 < difference < 0.05
    with pytest.raises(ValueError, match="batch sizes"):
        eca_jax.Predictor.load(weights, batch_sizes=(0,))


def test_importing_the_package_imports_nothing_else():
    """And running an exported model needs JAX alone."""
    check = """
import eca_jax, sys
print({"jax", "flax", "numpy", "tensorflow"} & set(sys.modules))
eca_jax.load_exported
print({"flax", "optax", "orbax", "PIL", "tensorflow"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert result.stdout == "set()\nset()\n", result.stderr


@pytest.mark.slow
def test_batches_are_split_over_all_devices(weights):
    """In a process with four devices: sizes become multiples of four, and every device gets a part."""
    check = f"""
import numpy as np, jax, eca_jax
predictor = eca_jax.Predictor.load({str(weights)!r}, batch_sizes=(1, 6))
assert predictor.batch_sizes == [4, 8], predictor.batch_sizes
images = np.random.default_rng(0).integers(0, 256, (9, 50, 60, 3), np.uint8)
together = predictor(images)
program = predictor.programs["logits", 8]
assert {{s.device for s in program(predictor.variables, np.zeros((8, 32, 32, 3), np.uint8)).addressable_shards}} == \
    set(jax.devices())
print(together.tolist())
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    images = np.random.default_rng(0).integers(0, 256, (9, 50, 60, 3), np.uint8)
    one = eca_jax.Predictor.load(weights, batch_sizes=(9,))(images)
    assert_same(np.array(json.loads(result.stdout)), one)
