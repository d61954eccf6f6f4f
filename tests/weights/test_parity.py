"""Every registered model against its PyTorch original: same weights, same images, same logits; and the round trip."""

import jax
import numpy as np
import pytest
import torch
from originals import images, random_original, to_nchw

import eca_jax
from eca_jax.convert import from_torch, model_options, to_torch
from eca_jax.models.registry import preprocessing

TOLERANCE = 1e-4  # of the largest logit
ODD_SIZE = 193


def takes(model, variables, size: int) -> bool:
    """Whether the model takes images of this size; networks with self-attention may be made for one size."""
    try:
        jax.eval_shape(model.apply, variables, images(size))
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", eca_jax.list_models(task="classification"))
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
