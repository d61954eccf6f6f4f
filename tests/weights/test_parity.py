"""Every kind of model against its PyTorch original: same weights, same images, same logits; and the round trip."""

import re

import jax
import numpy as np
import pytest
import torch
from originals import images, random_original, to_nchw

import eca_jax
from eca_jax.convert import from_torch, model_options, to_torch
from eca_jax.models.registry import entry, preprocessing
from eca_jax.weights.torch import reference

TOLERANCE = 1e-4  # of the largest logit
ODD_SIZE = 193


def in_suite(name: str) -> bool:
    """Whether a model has an original, and blocks that no shallower network of its kind has."""
    return (entry(name).weights_format != "ecanet" or reference.has(name)) and not re.fullmatch(
        "cbam_resnet1(01|52)|(eca|se)_resnext101.*|resnext101_32x4d|resnet200", name
    )


def takes(model, variables, size: int) -> bool:
    """Whether the model takes images of this size; networks with self-attention may be made for one size."""
    try:
        jax.eval_shape(model.apply, variables, images(size))
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", [*filter(in_suite, eca_jax.list_models(task="classification"))])
def test_logits_and_round_trip(name):
    """Logits within 1e-4 of the largest, at 224 (or the model's own size) and at an odd size; all tensors come back."""
    module = random_original(name)
    state_dict = module.state_dict()
    variables = from_torch(state_dict, name)
    returned = to_torch(variables, name)
    assert returned.keys() == state_dict.keys()
    for key, tensor in state_dict.items():
        np.testing.assert_array_equal(returned[key], tensor.numpy(), err_msg=key, strict=True)

    model = eca_jax.create_model(name, **model_options(state_dict, name))
    apply = model.apply  # operation by operation: networks share most of theirs, and each would compile for long
    standard = 224 if takes(model, variables, 224) else preprocessing(name).image_size
    for size in (standard, ODD_SIZE):
        if size == ODD_SIZE and not takes(model, variables, size):
            with torch.inference_mode(), pytest.raises((AssertionError, RuntimeError)):
                module(to_nchw(images(size)))
            continue
        with torch.inference_mode():
            expected = module(to_nchw(images(size))).numpy()
        magnitude = np.abs(expected).max()
        assert 0.1 < magnitude < 1e3, "random weights should keep signals in range"
        assert np.abs(expected[0] - expected[1]).max() > 0.02 * magnitude, "the image should show in the logits"
        logits = np.asarray(apply(variables, images(size)))
        assert np.abs(logits - expected).max() <= TOLERANCE * magnitude, f"at {size} pixels"
