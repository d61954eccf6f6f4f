"""from_torch and to_torch: what is inferred, what is refused and how the message reads, dtypes, parts of models."""

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from originals import images, random_original, to_nchw

import eca_jax
from eca_jax.convert import MismatchError, from_torch, model_options, to_torch
from eca_jax.models.registry import entry
from eca_jax.weights.torch.names import LAYOUTS, POINTWISE, CropLayout, correspondence
from eca_jax.weights.torch.verify import original


@pytest.fixture(scope="module")
def resnet18():
    """State dict of a small ECA-ResNet whose kernels and classes are not the default."""
    return random_original("eca_resnet18", num_classes=10, kernel_sizes=(3, 1, 5, 9)).state_dict()


@pytest.mark.parametrize("layout", [*LAYOUTS.values(), POINTWISE])
def test_layouts_undo_themselves(layout):
    shape = (7, 7, 4, 5) if isinstance(layout, CropLayout) else (2, 3, 4, 5)  # crops are of 7x7
    value = np.random.default_rng(0).normal(size=shape[: len(layout.axes)])
    tensor = layout.to_torch(value)
    assert tensor.shape == layout.torch_shape(value.shape)
    assert layout.flax_shape(tensor.shape) == value.shape
    np.testing.assert_array_equal(layout.to_flax(tensor), value)


def test_a_shape_that_a_layout_cannot_have_is_none():
    assert POINTWISE.flax_shape((4, 3, 1, 1)) == (3, 4)
    assert POINTWISE.flax_shape((4, 3, 3, 3)) is None
    assert LAYOUTS["kernel", 4].flax_shape((4, 3)) is None


@pytest.mark.parametrize("name", ["eca_resnet50", "eca_mobilenet_v2", "resnet34", "mobilenet_v2"])
def test_tensors_are_in_the_order_of_the_original(name):
    """The order of the state dict, and with it that of the parameters, which an optimizer's state is indexed by."""
    format = "ecanet" if name.startswith("eca") else "torchvision"
    pairs = correspondence(eca_jax.create_model(name), 224, entry(name).rules(format))
    module = original(name, {})
    assert [pair.key for pair in pairs] == list(module.state_dict())
    parameters = [pair.key for pair in pairs if pair.path[0] == "params"]
    assert parameters == [key for key, _ in module.named_parameters()]


def test_classes_and_kernel_sizes_are_read_off_the_tensors(resnet18):
    assert model_options(resnet18, "eca_resnet18") == {"num_classes": 10, "kernel_sizes": (3, 1, 5, 9)}


def test_default_kernel_sizes_need_no_override():
    state_dict = random_original("eca_resnet18").state_dict()
    assert model_options(state_dict, "eca_resnet18") == {"num_classes": 1000}


def test_mobilenet_v2_takes_one_kernel_size_a_block():
    """The rule of releases before August 2020: up to and with 96 channels, k = 1."""
    sizes = (1,) * 13 + (3,) * 4
    state_dict = random_original("eca_mobilenet_v2", kernel_sizes=sizes).state_dict()
    assert model_options(state_dict, "eca_mobilenet_v2")["kernel_sizes"] == sizes


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_wrapped_keys_are_unwrapped(resnet18, prefix):
    plain = flatten_dict(from_torch(resnet18, "eca_resnet18"))
    wrapped = from_torch({prefix + key: tensor for key, tensor in resnet18.items()}, "eca_resnet18")
    for path, value in flatten_dict(wrapped).items():
        np.testing.assert_array_equal(value, plain[path])


def test_variables_are_copies(resnet18):
    variables = from_torch(resnet18, "eca_resnet18")
    before = variables["params"]["bn1"]["scale"].copy()
    resnet18["bn1.weight"].add_(1)
    np.testing.assert_array_equal(variables["params"]["bn1"]["scale"], before)
    resnet18["bn1.weight"].sub_(1)


def test_jax_arrays_go_to_torch(resnet18):
    variables = from_torch(resnet18, "eca_resnet18")
    returned = to_torch(jax.tree.map(jax.numpy.asarray, variables), "eca_resnet18")
    np.testing.assert_array_equal(returned["layer1.0.conv1.weight"], resnet18["layer1.0.conv1.weight"].numpy())


def test_counters_are_optional_and_zero_without_them(resnet18):
    """PyTorch before 0.4.1 had none; a model that was never trained has zeros, and variables without them."""
    old = {key: tensor for key, tensor in resnet18.items() if not key.endswith("num_batches_tracked")}
    variables = from_torch(old, "eca_resnet18")
    assert set(variables) == {"params", "batch_stats"}
    returned = to_torch(variables, "eca_resnet18")
    assert returned.keys() == resnet18.keys()
    assert returned["bn1.num_batches_tracked"] == 0
    assert returned["bn1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32(resnet18, dtype):
    cast = {key: t.to(dtype) if t.is_floating_point() else t for key, t in resnet18.items()}
    variables = from_torch(cast, "eca_resnet18")
    kernel = variables["params"]["fc"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, cast["fc.weight"].float().numpy().T)


def test_integers_are_no_weights(resnet18):
    quantised = {**resnet18, "fc.weight": resnet18["fc.weight"].to(torch.int8)}
    with pytest.raises(ValueError, match=r"fc\.weight has numbers of type int8"):
        from_torch(quantised, "eca_resnet18")


def test_the_model_without_classifier_takes_the_whole_models_weights():
    module = random_original("resnet18")
    variables = from_torch(module.state_dict(), "resnet18", num_classes=0)
    assert "fc" not in variables["params"]
    batch = images(64)
    pooled = eca_jax.create_model("resnet18", num_classes=0).apply(
        {key: variables[key] for key in ("params", "batch_stats")}, batch
    )
    module.fc = torch.nn.Identity()
    with torch.inference_mode():
        np.testing.assert_allclose(pooled, module(to_nchw(batch)).numpy(), rtol=1e-4, atol=1e-4)


def test_features_only_takes_the_part_that_it_has():
    variables = from_torch(original("mobilenet_v2", {}).state_dict(), "mobilenet_v2", features_only=True)
    assert not {"classifier", "features_18_conv"} & set(variables["params"])


def change(state_dict, **changes):
    """The state dict with entries replaced, or left out where the new value is None. Keys have `__` for dots."""
    changed = {**state_dict, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn1__bias": None}, r"1 missing \(bn1\.bias\)"),
        ({"bn1__extra": torch.ones(3)}, r"1 unexpected \(bn1\.extra\)"),
        ({"bn1__bias": torch.ones(3)}, r"1 of another shape \(bn1\.bias is \(3,\) and should be \(64,\)\)"),
        ({"layer1__1__eca__conv__weight": torch.ones(1, 1, 7)}, r"layer1\.1\.eca\.conv\.weight is \(1, 1, 7\)"),
        ({"fc__weight": None, "fc__bias": None}, r"2 missing \(fc\.weight, fc\.bias\)"),
        ({"conv1__weight": torch.ones(64, 3, 7)}, r"conv1\.weight is \(64, 3, 7\) and should be \(64, 3, 7, 7\)"),
    ],
)
def test_what_does_not_fit_is_named(resnet18, changes, message):
    with pytest.raises(MismatchError, match=message) as error:
        from_torch(change(resnet18, **changes), "eca_resnet18")
    assert "\n" not in str(error.value)


def test_long_lists_are_cut_and_counted(resnet18):
    with pytest.raises(MismatchError, match=r"110 missing \(conv1\.weight, bn1\.weight, bn1\.bias, \.\.\.\)"):
        from_torch({"a": torch.ones(3)}, "eca_resnet18")


def test_the_message_guesses_the_cause(resnet18):
    with pytest.raises(MismatchError, match=r"they have 10 classes, and num_classes=1000 was asked for"):
        from_torch(resnet18, "eca_resnet18", num_classes=1000)
    with pytest.raises(MismatchError, match=r"they are those of eca_resnet18"):
        from_torch(resnet18, "eca_resnet34")
    with pytest.raises(MismatchError, match=r"every key begins with 'backbone\.'"):
        from_torch({f"backbone.{key}": tensor for key, tensor in resnet18.items()}, "eca_resnet18")
    with pytest.raises(MismatchError, match="there are no tensors"):
        from_torch({}, "eca_resnet18")


def test_an_explicit_kernel_size_must_match(resnet18):
    assert model_options(resnet18, "eca_resnet18", kernel_sizes=(3, 1, 5, 9))["kernel_sizes"] == (3, 1, 5, 9)
    with pytest.raises(MismatchError, match=r"layer4\.0\.eca\.conv\.weight is \(1, 1, 9\) and should be \(1, 1, 7\)"):
        from_torch(resnet18, "eca_resnet18", kernel_sizes=(3, 1, 5, 7))


def test_to_torch_is_as_strict():
    variables = from_torch(original("resnet18", {}).state_dict(), "resnet18")
    del variables["params"]["bn1"]["bias"]
    with pytest.raises(MismatchError, match=r"1 missing \(params/bn1/bias\)"):
        to_torch(variables, "resnet18")
    variables["params"]["bn1"]["bias"] = np.zeros(3)
    with pytest.raises(MismatchError, match=r"params/bn1/bias is \(3,\) and should be \(64,\)"):
        to_torch(variables, "resnet18")
    with pytest.raises(MismatchError, match="unexpected"):
        to_torch(variables, "eca_mobilenet_v2")


def test_unknown_names_are_errors(resnet18):
    with pytest.raises(ValueError, match="did you mean eca_resnet18"):
        from_torch(resnet18, "eca_resnet81")
    with pytest.raises(ValueError, match="no names of format 'keras'"):
        from_torch(resnet18, "eca_resnet18", format="keras")
