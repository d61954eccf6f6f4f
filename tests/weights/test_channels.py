"""Networks for grey images, and for others that are not RGB: their options, their weights, what becomes of RGB's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from small_network import OPTIONS, random_variables

import eca_jax
from eca_jax.models import Preprocessing
from eca_jax.models.registry import identify
from eca_jax.tasks.warm_start import from_weights
from eca_jax.weights.card import Card
from eca_jax.weights.channels import adapted
from eca_jax.weights.load import read_weights
from eca_jax.weights.torch.resolve import input_kernel, pairs_of

SMALL = {"num_classes": 3, **OPTIONS}
STAGES = {"num_classes": 3, "stage_sizes": (1, 0, 0, 0)}
# One of each family, and where it first sees the image in PyTorch.
FAMILIES = {
    "eca_resnet18": (SMALL, "conv1.weight"),
    "ecaresnet50d": (STAGES, "conv1.0.weight"),
    "eca_mobilenet_v2": ({"num_classes": 3, "width_mult": 0.25}, "features.0.0.weight"),
    "eca_resnext26ts": (STAGES, "stem.conv1.conv.weight"),
    "eca_nfnet_l0": (STAGES, "stem.conv1.weight"),
    "eca_vovnet39b": (STAGES, "stem.0.conv.weight"),
}
CONV1 = ("params", "conv1", "kernel")


@pytest.fixture(scope="module")
def rgb():
    """Variables of the small network for RGB images."""
    return random_variables(eca_jax.create_model("eca_resnet18", **SMALL))


@pytest.fixture
def rgb_file(rgb, tmp_path):
    path = tmp_path / "rgb.safetensors"
    safetensors.numpy.save_file(eca_jax.convert.to_torch(rgb, "eca_resnet18", **SMALL), path)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_the_channels_are_read_off_the_tensors_of_every_family(name):
    options, key = FAMILIES[name]
    pairs = pairs_of(name, None, {**options, "in_chans": 1})
    first = input_kernel(pairs)
    assert (first.key, first.torch_shape[1]) == (key, 1)
    tensors = {pair.key: np.random.default_rng(0).random(pair.torch_shape, np.float32) for pair in pairs}
    asked = {key: value for key, value in options.items() if key == "stage_sizes"}
    assert eca_jax.convert.model_options(tensors, name, **asked)["in_chans"] == 1
    back = eca_jax.convert.to_torch(eca_jax.convert.from_torch(tensors, name, **asked), name, **asked)
    for pair in pairs:
        if pair.path[0] != "num_batches_tracked":
            np.testing.assert_array_equal(back[pair.key], tensors[pair.key])


def test_a_network_takes_images_of_its_own_channels_alone():
    grey = eca_jax.create_model("eca_resnet18", in_chans=1, **SMALL)
    assert identify(grey)[1]["in_chans"] == 1
    with pytest.raises(ValueError, match=r"takes images of in_chans=1 channels, not \[1, 32, 32, 3\]"):
        jax.eval_shape(grey.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    for value in (0, 2.0, "1", True):
        with pytest.raises(ValueError, match="in_chans must be a whole number of 1 or more"):
            eca_jax.create_model("resnet18", in_chans=value)
    with pytest.raises(ValueError, match="has no option 'in_chans'"):
        eca_jax.create_model("retinanet_resnet50_fpn", in_chans=1)


def test_what_an_image_is_normalised_by_follows_the_channels():
    how = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1))
    assert how.for_channels(3) is how
    assert (how.for_channels(1).mean, how.for_channels(1).std) == (pytest.approx((0.4,)), pytest.approx((0.2,)))
    assert how.for_channels(4).mean == pytest.approx((0.5, 0.4, 0.3, 0.4))
    assert how.for_channels(1).for_channels(3).mean == pytest.approx((0.4, 0.4, 0.4))
    assert how.for_channels(4).shape == (224, 224, 4)
    assert Card("resnet18", {"in_chans": 1}, how).preprocessing == how.for_channels(1)


def test_a_kernel_of_rgb_is_summed_or_repeated():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32)
    red, green, blue = np.moveaxis(kernel, 2, 0)
    np.testing.assert_array_equal(adapted(kernel, 1)[:, :, 0], red + green + blue)
    np.testing.assert_array_equal(adapted(kernel, 2), np.stack([red, green], axis=2) * np.float32(1.5))
    np.testing.assert_array_equal(adapted(kernel, 4), np.stack([red, green, blue, red], axis=2) * np.float32(0.75))
    with pytest.raises(ValueError, match="the weights are of 4 input channels: only those of 3 become in_chans=1"):
        adapted(adapted(kernel, 4), 1)


@pytest.mark.slow  # imports timm
def test_a_kernel_is_adapted_as_timm_adapts_it():
    import torch

    from eca_jax.weights.torch.peer import import_timm

    adapt = import_timm().models.adapt_input_conv
    weight = torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    for in_chans in (1, 2, 4, 5, 6, 7, 12):
        ours = adapted(weight.numpy().transpose(2, 3, 1, 0), in_chans).transpose(3, 2, 0, 1)
        np.testing.assert_array_equal(ours, adapt(in_chans, weight.clone()).numpy())


def test_weights_of_rgb_become_those_of_grey_where_that_is_asked_for(rgb, rgb_file, tmp_path):
    plain, grey = read_weights(rgb_file, "eca_resnet18"), read_weights(rgb_file, "eca_resnet18", in_chans=1)
    assert "in_chans" not in plain.card.options
    assert grey.model.in_chans == grey.card.options["in_chans"] == grey.card.preprocessing.channels == 1
    assert grey.remarks[-1] == "first convolution adapted to in_chans=1: its 3 input channels summed"
    found, given = flatten_dict(grey.variables), flatten_dict(dict(rgb))
    np.testing.assert_array_equal(found.pop(CONV1), adapted(given[CONV1], 1))
    for path, value in found.items():
        np.testing.assert_array_equal(value, given[path])

    for name in ("directory", "file.safetensors"):  # and from then on nobody has to say it
        eca_jax.save(tmp_path / name, grey.card, grey.variables)
        again = read_weights(tmp_path / name)
        assert again.card == grey.card and again.model == grey.model
        with pytest.raises(ValueError, match=f"{name}: the weights are of 1 input channels: only those of 3 become"):
            read_weights(tmp_path / name, in_chans=4)


def test_training_starts_from_weights_of_rgb(rgb, rgb_file):
    options = {**SMALL, "in_chans": 4}
    fresh = jax.device_put(random_variables(eca_jax.create_model("eca_resnet18", **options), seed=1))
    found, words = from_weights(str(rgb_file), Card("eca_resnet18", options, Preprocessing()), fresh)
    assert "in_chans=4: its 3 input channels repeated and scaled by 3/4" in words
    kernel = flatten_dict(dict(rgb))[CONV1]
    np.testing.assert_array_equal(found["params"]["conv1"]["kernel"], adapted(kernel, 4))
