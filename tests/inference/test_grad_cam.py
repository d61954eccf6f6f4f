"""Class activation maps: against the public PyTorch implementation, and against what they are by definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_network import OPTIONS, random_variables

from eca_jax import create_model, kernels
from eca_jax.inference.grad_cam import explain, grad_cam, map_layers
from eca_jax.weights.torch.peer import import_torchvision
from eca_jax.weights.torch.state_dict import from_torch

CLASSES = (3, 5, 0, 1)  # of the four images that are shown to both


@pytest.fixture(scope="module")
def network():
    model = create_model("eca_resnet18", num_classes=7, **OPTIONS)
    return model, random_variables(model), jax.random.normal(jax.random.key(1), (3, 32, 32, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "torch_layer"), [("layer4_1", "layer4.1"), ("layer2_0", "layer2.0")])
def test_maps_are_those_of_the_pytorch_implementation(layer, torch_layer):
    import torch

    torchvision = import_torchvision()  # before the peer imports it
    from pytorch_grad_cam import GradCAM, HiResCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    peer = torchvision.models.resnet18(num_classes=7).eval()
    for module in peer.modules():  # as after training: with the initial statistics the maps are all alike
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    images = np.random.default_rng(0).normal(size=(4, 96, 128, 3)).astype(np.float32)
    model = create_model("resnet18", num_classes=7)
    variables = from_torch(peer.state_dict(), "resnet18", num_classes=7)
    for method, build in (("grad_cam", GradCAM), ("hires_cam", HiResCAM)):
        program = kernels.jit(functools.partial(grad_cam, model, layer=layer, method=method))
        ours = np.asarray(program(variables, images, np.array(CLASSES)))
        tensor = torch.from_numpy(images.transpose(0, 3, 1, 2))
        targets = [ClassifierOutputTarget(label) for label in CLASSES]
        with build(peer, [peer.get_submodule(torch_layer)]) as cam:
            cam(tensor, targets)
            stored = cam.activations_and_grads
            activations, gradients = stored.activations[0].numpy(), stored.gradients[0].numpy()
            theirs = cam.get_cam_image(tensor, peer, targets, activations, gradients, eigen_smooth=False)
        theirs = np.maximum(theirs, 0)
        empty = theirs.max((1, 2)) == 0  # nothing speaks for the class
        np.testing.assert_array_equal(ours.max((1, 2)) == 0, empty)
        assert ours.shape == theirs.shape and empty.sum() <= 2
        for a, b in zip(ours[~empty], theirs[~empty], strict=True):
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] >= 0.9999
            np.testing.assert_allclose(a, b / b.max(), atol=1e-4)


@pytest.fixture(scope="module")
def program(network):
    """One program for all: compiling it is what takes the time."""
    model, _, _ = network

    def everything(variables, images, classes):
        features = model.clone(features_only=True).apply(variables, images)[-1]
        hires = grad_cam(model, variables, images, classes, method="hires_cam")
        likeliest, logits = explain(model, variables, images)
        given = grad_cam(model, variables, images, jnp.argmax(logits, axis=-1))
        return features, grad_cam(model, variables, images, classes), hires, likeliest, given, logits

    return kernels.jit(everything)


def test_of_the_last_block_both_are_the_class_activation_map(network, program):
    _, variables, images = network
    classes = np.array([0, 2, 6])
    features, maps, hires, _, _, logits = program(variables, images, classes)
    expected = np.einsum("nhwc,cn->nhw", features, variables["params"]["fc"]["kernel"][:, classes])
    expected = np.maximum(expected, 0)
    assert expected.any()
    expected /= np.maximum(expected.max((1, 2), keepdims=True), 1e-9)
    assert maps.dtype == jnp.float32 and maps.shape == features.shape[:3]
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    np.testing.assert_allclose(hires, expected, atol=1e-5)
    pooled, head = np.mean(features, (1, 2)), variables["params"]["fc"]
    np.testing.assert_allclose(logits, pooled @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-4)


def test_the_likeliest_class_is_explained_where_none_is_given(network, program):
    _, _, _, likeliest, given, _ = program(*network[1:], np.array([0, 2, 6]))
    assert np.any(likeliest)
    np.testing.assert_array_equal(likeliest, given)


def test_nothing_speaks_for_a_class_without_weights(network, program):
    _, variables, images = network
    silent = jax.tree.map(np.zeros_like, variables["params"]["fc"])
    variables = {**variables, "params": {**variables["params"], "fc": silent}}
    assert not np.any(program(variables, images, np.array([0, 2, 6]))[1])


def test_unknown_layers_and_methods_are_named(network):
    model, variables, images = network
    assert list(map_layers(model, variables, images))[-1] == "layer2_0"
    with pytest.raises(ValueError, match="no layer 'layer2_1' returns a feature map: layer2_0"):
        grad_cam(model, variables, images, layer="layer2_1")
    with pytest.raises(ValueError, match="method is 'grad_cam' or 'hires_cam', not 'jet'"):
        grad_cam(model, variables, images, method="jet")
