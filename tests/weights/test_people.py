"""What people's weights files are like: entries, prefixes, companions, folders, and what only looks like weights."""

import argparse
import collections
import json
import pathlib
import pickle
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax.traverse_util import flatten_dict
from small_network import random_variables

import eca_jax
from eca_jax.commands.main import main
from eca_jax.layers.attention import round_channels
from eca_jax.models.mobilenet_v2 import width_of
from eca_jax.tasks.warm_start import from_weights
from eca_jax.weights.card import Card
from eca_jax.weights.load import read_weights
from eca_jax.weights.torch.reference import build

NAME, CLASSES = "resnet18", 3
# Output channels of MobileNetV2's 17 blocks (its paper's Table 2).
BLOCKS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)


@pytest.fixture(scope="module")
def state_dict():
    torch.manual_seed(0)
    return build(NAME, num_classes=CLASSES).state_dict()


@pytest.fixture(scope="module")
def expected(state_dict):
    return flatten_dict(eca_jax.convert.from_torch(state_dict, NAME))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.pth"


def twice(state_dict):
    return {key: 2 * tensor for key, tensor in state_dict.items()}


def prefixed(prefix, state_dict):
    return {prefix + key: tensor for key, tensor in state_dict.items()}


def assert_variables(weights, expected, factor=1):
    found = flatten_dict(weights.variables)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], factor * value, err_msg=str(name))


LOOSE = {"criterion.weight": torch.ones(1000), "train_acc.total": torch.tensor(3)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"net": s, "acc": 95.2, "epoch": 3},
        lambda s: {"model_state": s},
        lambda s: {"weights": s, "best_acc1": torch.tensor(3.0), "best_acc5": torch.tensor(4.0)},
        lambda s: {"checkpoint": {"params": s}},
        lambda s: {"a": {"b": {"c": {"d": {"e": s}}}}},
        lambda s: [7, s, {"lr": 0.1}],
        lambda s: {"state_dict": prefixed("model.", s), "pytorch-lightning_version": "2.0"},
        lambda s: {"state_dict": prefixed("module.backbone.", s), "optimizer": {"state": {0: {"m": torch.ones(3)}}}},
        lambda s: prefixed("_orig_mod.module.", s),
        lambda s: {"state_dict": s, "model": s},
    ],
)
def test_the_tensors_are_found_under_any_entry_and_prefix(wrap, state_dict, expected, path):
    torch.save(wrap(state_dict), path)
    weights = read_weights(path, NAME)
    assert_variables(weights, expected)
    assert weights.card.options["num_classes"] == CLASSES
    assert weights.remarks == ()


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("model.", LOOSE),
        ("", LOOSE),
        ("", {"total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)}),
        ("module.", {"n_averaged": torch.tensor(5)}),
    ],
)
def test_tensors_beside_the_models_are_left_out_and_named(prefix, beside, state_dict, expected, path):
    torch.save({"state_dict": {**prefixed(prefix, state_dict), **beside}}, path)
    weights = read_weights(path, NAME)
    assert_variables(weights, expected)
    (remark,) = weights.remarks
    assert f"left out: {len(beside)} tensor" in remark and next(iter(beside)) in remark
    with pytest.warns(UserWarning, match="left out"):
        eca_jax.load(path, NAME)


@pytest.mark.parametrize(
    ("plain", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("raw", "ema")]
)
def test_the_moving_average_is_taken_unless_told_and_said(plain, average, state_dict, expected, path):
    torch.save({plain: state_dict, average: twice(state_dict), "args": argparse.Namespace(model=NAME)}, path)
    averaged, raw = read_weights(path), read_weights(path, ema=False)
    assert_variables(averaged, expected, 2)
    assert_variables(raw, expected)
    assert averaged.remarks == (f"taken: {average}, not {plain}",)
    assert raw.remarks == (f"taken: {plain}, not {average}",)


def test_of_two_networks_the_part_is_named(state_dict, expected, path):
    torch.save({"student": prefixed("module.", state_dict), "teacher": prefixed("module.", twice(state_dict))}, path)
    with pytest.raises(ValueError, match=r"more than once \(student\.module, teacher\.module\): `part` names"):
        read_weights(path, NAME)
    assert_variables(read_weights(path, NAME, part="teacher"), expected, 2)
    torch.save({"state_dict": prefixed("encoder_q.", state_dict) | prefixed("encoder_k.", twice(state_dict))}, path)
    assert_variables(read_weights(path, NAME, part="encoder_q"), expected)
    with pytest.raises(
        ValueError, match=r"has no part 'decoder' .*: there are state_dict\.encoder_k, state_dict\.encoder_q"
    ):
        read_weights(path, NAME, part="decoder")


def test_the_model_is_the_one_that_the_file_names(state_dict, expected, path):
    for content in (
        {"arch": NAME, "state_dict": state_dict},
        {"model": state_dict, "args": argparse.Namespace(model=NAME, lr=0.1)},
    ):
        torch.save(content, path)
        assert_variables(read_weights(path), expected)
    torch.save(state_dict, path)
    with pytest.raises(ValueError, match="does not say of which model it is"):
        read_weights(path)


def test_harmless_objects_are_no_danger(state_dict, expected, path):
    beside = {
        "history": np.arange(5.0),
        "best": np.float32(3),
        "random": np.random.default_rng(0).bit_generator.state,
        "legacy_random": np.random.get_state(),
        "cfg": pathlib.Path("/x"),
        "counts": collections.defaultdict(list, a=[1]),
        "steps": collections.Counter("aab"),
        "args": types.SimpleNamespace(lr=0.1),
        "names": {"cat", "dog"},
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "size": torch.Size([3]),
    }
    for zipped in (True, False):
        torch.save({"state_dict": state_dict, **beside}, path, _use_new_zipfile_serialization=zipped)
        assert_variables(read_weights(path, NAME), expected)


def test_dangerous_objects_are_named(state_dict, path):
    for content, name in (
        (build(NAME, num_classes=CLASSES), "eca_jax.weights.torch.reference.ResNet"),
        ({"state_dict": state_dict, "optimizer": torch.optim.SGD([torch.ones(1)])}, "torch.optim.sgd.SGD"),
        ({"state_dict": state_dict, "run": print}, "builtins.print"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=rf"w\.pth is refused: reading it would run code \({name}\)"):
            read_weights(path, NAME)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_types_and_other_layouts_are_read(dtype, state_dict, expected, path):
    changed = {k: torch.nn.Parameter(t.to(dtype)) if t.is_floating_point() else t for k, t in state_dict.items()}
    changed["conv1.weight"] = state_dict["conv1.weight"].to(memory_format=torch.channels_last)
    torch.save(changed, path)
    weights = read_weights(path, NAME)
    np.testing.assert_array_equal(weights.variables["params"]["conv1"]["kernel"], expected["params", "conv1", "kernel"])
    rounded = state_dict["fc.weight"].to(dtype).float().numpy().T
    np.testing.assert_array_equal(weights.variables["params"]["fc"]["kernel"], rounded)
    assert str(dtype).removeprefix("torch.") in weights.remarks[0]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_any_protocol_of_pickles_is_read(protocol, zipped, state_dict, expected, path):
    content = {"state_dict": state_dict, "history": np.arange(5.0), "cfg": pathlib.Path("/x")}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_variables(read_weights(path, NAME), expected)


def test_a_pickle_of_numpy_arrays_is_read(state_dict, expected, tmp_path):
    """As detectron2's model zoo has them."""
    arrays = {key: tensor.numpy() for key, tensor in state_dict.items()}
    for protocol in (2, 4, 5):
        content = pickle.dumps({"model": arrays, "__author__": "someone"}, protocol)
        (tmp_path / "w.pkl").write_bytes(content)
        assert_variables(read_weights(tmp_path / "w.pkl", NAME), expected)


def test_numbers_that_are_not_finite_are_said(state_dict, path, tmp_path):
    torch.save({**state_dict, "fc.bias": torch.tensor([0.0, float("nan"), 1.0])}, path)
    assert read_weights(path, NAME).remarks == ("1 arrays hold NaN or infinity (params/fc/bias)",)
    assert main(["convert", "--model", NAME, str(path), str(tmp_path / "w")]) == 0
    assert "NaN" in read_weights(tmp_path / "w").remarks[0]


def test_a_file_is_known_by_its_content(state_dict, expected, tmp_path):
    safetensors.torch.save_file(state_dict, tmp_path / "x.pth")
    torch.save(state_dict, tmp_path / "x.safetensors")
    torch.save(state_dict, tmp_path / "X.CKPT")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state_dict, tmp_path / "unchecked.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    for name in ("x.pth", "x.safetensors", "X.CKPT", "unchecked.pth"):
        assert_variables(read_weights(tmp_path / name, NAME), expected)


HUB = {
    "architecture": NAME,
    "num_classes": CLASSES,
    "pretrained_cfg": {
        "input_size": [3, 160, 160],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "label_names": ["ant", "bee", "cat"],
    },
}


def shards(directory, state_dict):
    keys = list(state_dict)
    halves = {"model-00001-of-00002.safetensors": keys[:60], "model-00002-of-00002.safetensors": keys[60:]}
    for name, own in halves.items():
        safetensors.torch.save_file({key: state_dict[key] for key in own}, directory / name)
    places = {key: name for name, own in halves.items() for key in own}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin", "shards"])
def test_folders_of_the_hub_are_read_with_their_preprocessing_and_names(kind, state_dict, expected, tmp_path):
    if kind == "shards":
        shards(tmp_path, state_dict)
    elif kind == "pytorch_model.bin":
        torch.save(state_dict, tmp_path / kind)
    else:
        safetensors.torch.save_file(state_dict, tmp_path / kind)
    (tmp_path / "config.json").write_text(json.dumps(HUB))
    (tmp_path / "README.md").write_text("---")
    weights = read_weights(tmp_path)
    assert_variables(weights, expected)
    assert weights.class_names == ["ant", "bee", "cat"]
    how = weights.card.preprocessing
    assert (how.image_size, how.resize_size, how.interpolation, how.mean[0], how.std[0]) == (
        160,
        168,
        "bicubic",
        0.5,
        0.25,
    )
    if kind == "shards":
        (tmp_path / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match=r"model-00002-of-00002\.safetensors is missing"):
            read_weights(tmp_path)


def test_a_folder_with_one_weights_file_is_that_file(state_dict, expected, tmp_path):
    torch.save(state_dict, tmp_path / "best.pth")
    assert_variables(read_weights(tmp_path, NAME), expected)
    torch.save(state_dict, tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"holds several weights files: give one of best\.pth, last\.pth"):
        read_weights(tmp_path, NAME)


def test_plain_weights_are_recognised_where_eca_was_asked_for(state_dict, path):
    torch.save(state_dict, path)
    with pytest.raises(ValueError, match="they are those of resnet18"):
        read_weights(path, "eca_resnet18")


def small(name, **options):
    """Names and random tensors of a network of one block a stage, without one of PyTorch."""
    model = eca_jax.create_model(name, **options)
    return eca_jax.convert.to_torch(random_variables(model), name, **options)


@pytest.mark.parametrize("name", ["resnet18", "eca_resnet50", "seresnet50"])
def test_options_are_read_off_the_tensors(name, path):
    options = {"num_classes": 3, "stage_sizes": (1, 2, 1, 1)}
    if name != "seresnet50":
        options["small_images"] = True
    safetensors.numpy.save_file(small(name, **options), path)
    weights = read_weights(path, name)
    assert weights.card.options == options
    assert weights.model == eca_jax.create_model(name, **options)


@pytest.mark.parametrize("width", [0.35, 1.4])
def test_a_width_is_read_off_the_tensors(width, path):
    options = {"num_classes": 3, "width_mult": width}
    safetensors.numpy.save_file(small("mobilenet_v2", **options), path)
    assert read_weights(path, "mobilenet_v2").card.options == options


def test_every_usual_width_is_told_from_its_neighbours():
    for hundredths in (10, 25, 35, 50, 75, 100, 110, 120, 130, 140, 200):
        layers = {f"features_{number}/project_conv": channels for number, channels in enumerate(BLOCKS, 1)}
        widths = {path: round_channels(c * hundredths / 100) for path, c in ({"features_0_conv": 32} | layers).items()}
        found = width_of(widths)
        assert {path: round_channels(c * found) for path, c in ({"features_0_conv": 32} | layers).items()} == widths
    assert width_of(widths | {"features_17/project_conv": 24}) is None


def test_the_sizes_of_another_registered_model_are_that_models(path):
    safetensors.numpy.save_file(small("eca_resnet34", num_classes=3), path)
    with pytest.raises(ValueError, match="they are those of eca_resnet34"):
        read_weights(path, "eca_resnet18")


def start(path, name, **options):
    """What a training of 5 classes would start from: variables, words, and the fresh ones."""
    options = {"num_classes": 5, **options}
    fresh = jax.device_put(random_variables(eca_jax.create_model(name, **options), seed=1))
    card = Card(name, options, eca_jax.models.preprocessing(name))
    found, words = from_weights(str(path), card, fresh)
    return flatten_dict(found), words, flatten_dict(fresh)


@pytest.mark.parametrize(
    "kind", ["another head", "no head", "a sequential head", "a head of another name", "a detector"]
)
def test_a_training_starts_with_a_new_classifier(kind, state_dict, expected, path):
    body = {key: tensor for key, tensor in state_dict.items() if not key.startswith("fc.")}
    content = {
        "another head": state_dict,
        "no head": body,
        "a sequential head": {**prefixed("encoder_q.", body), "encoder_q.fc.2.weight": torch.ones(128, 512)},
        "a head of another name": {**body, "head.weight": torch.ones(2, 512)},
        "a detector": {**prefixed("backbone.body.", body), "rpn.head.conv.weight": torch.ones(3)},
    }[kind]
    torch.save(content, path)
    found, words, fresh = start(path, NAME)
    assert "new classifier (params/fc/bias, params/fc/kernel) for 5 classes" in words
    assert ("left out" in words) == (kind not in ("another head", "no head"))
    for name, value in found.items():
        np.testing.assert_array_equal(value, fresh[name] if "fc" in name else expected[name], err_msg=str(name))


def test_a_training_with_eca_starts_from_plain_weights(state_dict, expected, path):
    torch.save(state_dict, path)
    found, words, fresh = start(path, "eca_resnet18")
    assert "new attention (8 arrays: params/layer1_0/eca/conv/kernel, ...), since they have none" in words
    for name, value in found.items():
        taken = fresh[name] if {"fc", "eca"} & set(name) else expected[name]
        np.testing.assert_array_equal(value, taken, err_msg=str(name))
    eca_jax.save(path.with_name("plain"), NAME, eca_jax.convert.from_torch(state_dict, NAME))
    again, words, _ = start(path.with_name("plain"), "eca_resnet18")
    assert "new attention" in words and found.keys() == again.keys()


def test_a_damaged_attention_or_body_starts_nothing(path):
    tensors = small("eca_resnet18", num_classes=3)
    for key, message in (("layer2.0.eca.conv.weight", "1 missing"), ("layer2.0.bn1.weight", "1 missing")):
        safetensors.numpy.save_file({name: value for name, value in tensors.items() if name != key}, path)
        with pytest.raises(ValueError, match=rf"{message} \({key}\)"):
            start(path, "eca_resnet18")
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match="8 unexpected"):  # nor is an attention that is there dropped
        start(path, "resnet18")


def test_a_backbone_is_read_without_classifier(state_dict, path):
    torch.save({key: tensor for key, tensor in state_dict.items() if not key.startswith("fc.")}, path)
    with pytest.raises(ValueError, match=r"2 missing \(fc\.weight, fc\.bias\): they have no classifier; num_classes=0"):
        read_weights(path, NAME)
    weights = read_weights(path, NAME, num_classes=0)
    assert "fc" not in weights.variables["params"]
    eca_jax.save(path.with_name("backbone"), weights.model, weights.variables)
    assert read_weights(path.with_name("backbone")).card.options == {"num_classes": 0}
