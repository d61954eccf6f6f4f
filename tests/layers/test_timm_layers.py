"""The layers that only timm has, held to timm's and PyTorch's own."""

import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.layers import ECA, ECAM
from eca_jax.layers.pooling import halving_average_pool, halving_max_pool
from eca_jax.weights.torch.peer import import_timm

torch = pytest.importorskip("torch")


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def along_channels(module):
    """Parameters of a torch Conv1d as those of the Flax channel convolution: (O, I, k) becomes (k, I, O)."""
    params = {"kernel": module.weight.detach().numpy().transpose(2, 1, 0)}
    return params if module.bias is None else {**params, "bias": module.bias.detach().numpy()}


@pytest.mark.parametrize("channels", [16, 64, 256])
@pytest.mark.parametrize("attention", ["eca", "ceca", "ecam"])
def test_attention_equals_timms(attention, channels):
    import_timm()
    from timm.layers import create_attn

    torch.manual_seed(0)
    theirs = create_attn(attention, channels)
    ours = {"eca": ECA(), "ceca": ECA(circular=True), "ecam": ECAM()}[attention]
    x = np.random.default_rng(0).normal(size=(2, 5, 6, channels)).astype(np.float32)
    params = {name: along_channels(module) for name, module in theirs.named_children() if name.startswith("conv")}
    np.testing.assert_allclose(ours.apply({"params": params}, x), nhwc(theirs(nchw(x))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (6, 7), (7, 6), (13, 13), (56, 56)])
def test_pools_that_hang_over_the_edge_equal_pytorchs(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    average = torch.nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    largest = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
    np.testing.assert_allclose(halving_average_pool(jnp.asarray(x)), nhwc(average(nchw(x))), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(halving_max_pool(jnp.asarray(x)), nhwc(largest(nchw(x))))
