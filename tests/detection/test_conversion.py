"""Detectors' weights from torchvision's and mmdetection's names and back, bit by bit."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import eca_jax
from eca_jax.models.registry import entry
from eca_jax.weights.torch.names import correspondence
from eca_jax.weights.torch.state_dict import from_torch_resolved, to_torch

SHORT = {"backbone_options": {"stage_sizes": (1, 1, 1, 1)}}
KINDS = ("retinanet", "faster_rcnn", "mask_rcnn")


def filled(name, **options):
    """PyTorch tensors of random numbers by the names of the model's own format."""
    model = eca_jax.create_model(name, **options)
    from eca_jax.weights.torch.names import variable_shapes

    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in variable_shapes(model, 64).items()}
    return unflatten_dict(flat)


def same(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    return set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)


def old_keys(tensors):
    """torchvision's state dict as its published files name it."""
    renamed = {}
    for key, value in tensors.items():
        for part in ("inner_blocks", "layer_blocks"):
            for i in range(4):
                key = key.replace(f"{part}.{i}.0.", f"{part}.{i}.")
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for i in range(4):
            key = key.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
            key = key.replace(f"_head.conv.{i}.0.", f"_head.conv.{2 * i}!")
        renamed[key.replace("!", ".")] = value
    return {key: value for key, value in renamed.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_torchvisions_detectors_go_there_and_back_in_both_generations_of_names(kind):
    peers = pytest.importorskip("peers")
    tensors = {k: v.numpy() for k, v in peers.detector(kind, num_classes=5).state_dict().items()}
    tensors = {k: v for k, v in tensors.items() if ".body.fc." not in k}
    name = f"{kind}_resnet50_fpn"
    variables, resolved = from_torch_resolved(tensors, name, **SHORT)
    assert resolved.format == "torchvision_detection" and resolved.options["num_classes"] == 5
    back = to_torch(variables, name, **SHORT)
    assert list(back) == list(tensors)
    assert all(np.array_equal(back[key], tensors[key]) for key in tensors)

    old = old_keys(tensors)
    again, resolved = from_torch_resolved(old, name, **SHORT)
    assert resolved.format == "torchvision_detection_v1"
    assert same(again, variables)
    back = to_torch(variables, name, format="torchvision_detection_v1", **SHORT)
    assert {key: back[key].tobytes() for key in old} == {key: value.tobytes() for key, value in old.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_mmdetections_files_tell_the_classes_and_the_kernel_sizes(kind):
    name = f"{kind}_eca_resnet50_fpn"
    variables = filled(name, num_classes=4, kernel_sizes=(3, 5, 7, 9), **SHORT)
    tensors = to_torch(variables, name, **SHORT)
    assert "backbone.layer1.0.eca.conv.weight" in tensors
    assert "neck.lateral_convs.0.conv.weight" in tensors
    again, resolved = from_torch_resolved({f"module.{key}": value for key, value in tensors.items()}, name, **SHORT)
    assert resolved.options["num_classes"] == 4 and resolved.options["kernel_sizes"] == (3, 5, 7, 9)
    assert same(again, variables)
    with pytest.raises(ValueError, match="missing"):
        from_torch_resolved(dict(list(tensors.items())[1:]), name, **SHORT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, tensors", [("faster_rcnn", 348), ("mask_rcnn", 360), ("retinanet", 354)], ids=KINDS[1:] + KINDS[:1]
)
def test_whole_detectors_have_as_many_tensors_as_torchvisions(name, tensors):
    model = eca_jax.create_model(f"{name}_resnet50_fpn")
    rules = entry(f"{name}_resnet50_fpn").naming.rules("torchvision_detection")
    assert len(correspondence(model, 64, rules)) == tensors
