"""`eca_jax.save` and `eca_jax.load`: what is saved comes back, in every form, with all that belongs to it."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from small_network import random_variables

import eca_jax
from eca_jax.commands.main import main
from eca_jax.models import Preprocessing
from eca_jax.weights.card import Card
from eca_jax.weights.load import read_weights

NAME = "eca_resnet18"
OPTIONS = {"num_classes": 2, "stage_sizes": (1, 1, 1, 1), "small_images": True, "kernel_sizes": (3, 3, 3, 3)}
HOW = Preprocessing(32, 0.8, "bicubic", (0.4,) * 3, (0.3,) * 3)
CARD = Card(NAME, OPTIONS, HOW, ("cat", "dog"), brightness=(70.5, 12.25))
FORMS = ("directory", "w.safetensors", "w.pth", "W.PT", "w.pth.tar")


@pytest.fixture(scope="module")
def model():
    return eca_jax.create_model(NAME, **OPTIONS)


@pytest.fixture(scope="module")
def variables(model):
    return random_variables(model)


def assert_same(found, expected):
    found, expected = flatten_dict(dict(found)), flatten_dict(dict(expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=str(path), strict=True)


@pytest.mark.parametrize("form", FORMS)
def test_everything_comes_back_from_every_form(form, model, variables, tmp_path):
    eca_jax.save(tmp_path / form, CARD, variables)
    loaded, found = eca_jax.load(tmp_path / form)
    assert loaded == model
    assert_same(found, variables)
    weights = read_weights(tmp_path / form)
    assert weights.card == CARD
    assert weights.class_names == ["cat", "dog"]
    assert [path.name for path in tmp_path.iterdir()] == [form]


def test_conversion_from_form_to_form_loses_nothing(variables, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    eca_jax.save("start", CARD, variables)
    for source, destination in zip(("start", *FORMS), FORMS, strict=False):
        assert main(["convert", source, destination]) == 0
    capsys.readouterr()
    weights = read_weights(FORMS[-1])
    assert weights.card == CARD
    assert_same(weights.variables, variables)
    assert main(["export", "--weights", FORMS[-1], "m.npz", "--platforms", "cpu"]) == 0
    assert eca_jax.load_exported("m.npz").metadata["class_names"] == ["cat", "dog"]


@pytest.mark.parametrize("form", ["w.pth", "w.pth.tar"])
def test_pytorch_reads_them_without_running_code(form, variables, tmp_path):
    eca_jax.save(tmp_path / form, CARD, variables)
    content = torch.load(tmp_path / form, weights_only=True)
    tensors = content["state_dict"] if form.endswith("tar") else content
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    torch.save(content, tmp_path / "again.pth")
    assert read_weights(tmp_path / "again.pth").card == CARD


@pytest.mark.parametrize("form", ["directory", "w.safetensors", "w.pth"])
def test_an_attention_by_name_comes_back_with_its_options(form, tmp_path):
    options = {"attention": "se", "attention_options": {"reduction": 4}, "stage_sizes": (1, 1, 1, 1), "num_classes": 2}
    model = eca_jax.create_model("resnet18", **options)
    eca_jax.save(tmp_path / form, "resnet18", random_variables(model), **options)
    loaded, _ = eca_jax.load(tmp_path / form)
    assert loaded == model
    assert read_weights(tmp_path / form).card.options == options


def test_an_attention_of_ones_own_is_stored_by_its_name_alone(tmp_path):
    options = {"num_classes": 2, "stage_sizes": (1, 1, 1, 1)}
    model = eca_jax.create_model("resnet18", attention=eca_jax.layers.ECA, **options)
    with pytest.raises(ValueError, match=r"attention=.* cannot be stored beside weights"):
        eca_jax.save(tmp_path / "w", model, random_variables(model))
    assert not (tmp_path / "w").exists()


def test_a_module_or_a_name_is_enough(model, variables, tmp_path):
    eca_jax.save(tmp_path / "module", model, variables, class_names=["cat", "dog"])
    weights = read_weights(tmp_path / "module")
    assert weights.card == dataclasses.replace(CARD, preprocessing=eca_jax.models.preprocessing(NAME), brightness=None)
    options = {key: value for key, value in OPTIONS.items() if key not in ("num_classes", "kernel_sizes")}
    eca_jax.save(tmp_path / "name.safetensors", NAME, variables, **options)
    assert read_weights(tmp_path / "name.safetensors").card.options == OPTIONS


@pytest.mark.parametrize("name", eca_jax.list_models(task="classification"))
def test_every_model_is_known_by_its_module(name):
    module = eca_jax.create_model(name, num_classes=7, dtype=jnp.bfloat16)
    found, options = eca_jax.models.registry.identify(module)
    assert eca_jax.create_model(found, dtype=jnp.bfloat16, **options) == module
    assert options == {"num_classes": 7}


def test_what_does_not_fit_is_refused(model, variables, tmp_path):
    for path, message in (
        ("out.ckpt", r"not written as \.ckpt"),
        ("out.npz", r"not written as \.npz"),
        ("m.onnx", r"not written as \.onnx"),
        ("nowhere/w.pth", "there is no directory"),
        ("nowhere/w", "there is no directory"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            eca_jax.save(tmp_path / path, CARD, variables)
    with pytest.raises(ValueError, match="missing"):
        eca_jax.save(tmp_path / "w", model, {"params": {}})
    with pytest.raises(ValueError, match="no registered model"):
        eca_jax.save(tmp_path / "w", eca_jax.layers.ECA(), variables)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ValueError, match="is not a weights directory"):
        eca_jax.save(tmp_path / "other", CARD, variables)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_version_in_the_name_of_a_directory_is_no_ending(variables, tmp_path):
    eca_jax.save(tmp_path / "resnet-v1.5", CARD, variables)
    assert (tmp_path / "resnet-v1.5" / "weights.safetensors").is_file()


def test_a_damaged_card_is_said(variables, tmp_path):
    eca_jax.save(tmp_path / "w", CARD, variables)
    config = tmp_path / "w" / "config.json"
    config.write_text(json.dumps({"model": NAME}))
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        read_weights(tmp_path / "w")
