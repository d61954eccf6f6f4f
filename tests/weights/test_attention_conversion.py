"""Attentions with a public PyTorch form: their authors' names and timm's, in both directions, and the same logits."""

import jax
import numpy as np
import pytest
import torch
from originals import images, to_nchw

import eca_jax
from eca_jax.convert import from_torch, to_torch
from eca_jax.weights.torch import reference
from eca_jax.weights.torch.peer import import_timm

SHORT = {"num_classes": 3, "stage_sizes": (1, 1, 1, 1)}


def draw(module):
    """No tensor as initialised, and signals kept in range."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("running_var") or (key.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 25
                tensor.normal_(0.0, fan_in**-0.5, generator=generator)
    return module.eval()


def check(module, name, **options):
    """The tensors come back, and the logits are the module's."""
    state_dict = draw(module).state_dict()
    variables = from_torch(state_dict, name, **SHORT, **options)
    returned = to_torch(variables, name, **SHORT, **options)
    assert returned.keys() == state_dict.keys()
    for key, tensor in state_dict.items():
        np.testing.assert_array_equal(returned[key], tensor.numpy(), err_msg=key, strict=True)
    batch = images(48)
    with torch.inference_mode():
        expected = module(to_nchw(batch)).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max(), "the image shows in the logits"
    logits = jax.jit(eca_jax.create_model(name, **SHORT, **options).apply)(variables, batch)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


# timm's class, and what ours has to be told to be the same.
TIMM = {
    "cbam": ("cbam", {"use_bias": False, "bn_momentum": 0.9}),
    "coord": ("coord", {}),
    "gca": ("gc", {"reduction": 8, "epsilon": 1e-6}),
    "gc": ("gc", {"reduction": 8, "epsilon": 1e-6, "fuse": "scale"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("theirs", TIMM)
def test_timms(theirs):
    timm = import_timm()
    attention, options = TIMM[theirs]
    module = timm.create_model("resnet50d", num_classes=3, layers=(1, 1, 1, 1), block_args={"attn_layer": theirs})
    check(module, "resnet50d", attention=attention, attention_options=options)


class UnsharedECA(torch.nn.Module):
    """The release's ECA-NS: a depthwise convolution over each channel's neighbours."""

    def __init__(self, channels, k=3):
        super().__init__()
        self.k, self.conv = k, torch.nn.Conv1d(channels, channels, k, bias=False, groups=channels)

    def forward(self, x):
        y = torch.nn.functional.unfold(x.mean((2, 3))[:, None, None], (1, self.k), padding=(0, (self.k - 1) // 2))
        return x * torch.sigmoid(self.conv(y.transpose(1, 2)))[..., None]


def shortened(module):
    for stage in range(1, 5):
        setattr(module, f"layer{stage}", getattr(module, f"layer{stage}")[:1])
    return module


@pytest.mark.slow
def test_the_releases_eca_with_a_kernel_for_every_channel():
    attention = lambda stage, channels: ("eca", UnsharedECA(channels))  # noqa: E731
    check(shortened(reference.ResNet(18, 3, attention)), "eca_resnet18", attention="eca_ns")


def test_cbam_as_its_authors_saved_it():
    """Under DataParallel, by the names of Jongchan/attention-module."""
    module = shortened(reference.build("cbam_resnet18", num_classes=3))
    keys = set(module.state_dict())
    assert {
        "layer1.0.cbam.ChannelGate.mlp.1.weight",
        "layer1.0.cbam.ChannelGate.mlp.3.bias",
        "layer1.0.cbam.SpatialGate.spatial.conv.weight",
        "layer1.0.cbam.SpatialGate.spatial.bn.running_var",
    } <= keys
    wrapped = {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
    assert from_torch(wrapped, "cbam_resnet18")["params"]["layer1_0"]["cbam"]["fc1"]["kernel"].shape == (64, 4)
    check(module, "cbam_resnet18")
