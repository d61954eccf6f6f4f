"""PyTorch originals with random weights, for the tests of conversion."""

from typing import Any

import numpy as np
import torch
from torch import nn

from eca_jax.models.registry import preprocessing
from eca_jax.weights.torch.verify import original


def images(size: int, count: int = 2) -> np.ndarray:
    """Coarse and fine noise, float32 NHWC. Fine noise alone would average out, and all images would look the same."""
    rng = np.random.default_rng(size)
    coarse = rng.standard_normal((count, 4, 4, 3), np.float32).repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)
    return coarse[:, :size, :size] + 0.5 * rng.standard_normal((count, size, size, 3), np.float32)


def to_nchw(batch: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())


def random_original(name: str, seed: int = 0, **options: Any) -> nn.Module:
    """The PyTorch original of a model, in evaluation mode, with no value left as initialised: nothing can hide.

    BatchNorm: running variance in [0.5, 2]; running mean, γ and β random; a different counter each. Convolutions
    are scaled to outputs of standard deviation 1, so that the image and every layer show in the logits whatever
    the depth; without that, random statistics let the biases drown the image within a few layers.
    """
    generator = torch.Generator().manual_seed(seed)
    module = original(name, {"num_classes": 1000, **options}).eval()
    with torch.no_grad():
        for path, tensor in module.state_dict().items():
            leaf = path.rsplit(".", 1)[-1]
            if leaf == "num_batches_tracked":
                tensor.random_(1, 1000, generator=generator)
            elif leaf == "running_var":
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif path.endswith("conv3.gain"):
                # The residual branches of a norm-free network. At 1, 48 of them amplify PyTorch's own rounding to
                # 3e-4 of its float64 logits (eca_nfnet_l3), and parity would measure chaos; at 1/2, to 1e-6.
                tensor.uniform_(0.25, 0.75, generator=generator)
            elif leaf == "gain" or (leaf == "weight" and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:  # biases and running means
                tensor.normal_(0.0, 0.2, generator=generator)
            elif tensor.ndim == 3:  # ECA: large enough that the gates differ from channel to channel
                tensor.normal_(0.0, 1.0, generator=generator)
            elif tensor.ndim == 2:  # dense layers and position tables
                tensor.normal_(0.0, tensor.shape[1] ** -0.5, generator=generator)
            else:  # convolutions
                tensor.normal_(0.0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        _scale_convolutions(module, preprocessing(name).image_size)
    return module


def _scale_convolutions(module: nn.Module, own_size: int) -> None:
    def scale(conv, _inputs, output):
        factor = 1 / output.std()
        conv.weight.mul_(factor)
        return output * factor

    # Standardised convolutions, which have a gain, do not see the scale of their weights.
    convs = [conv for conv in module.modules() if isinstance(conv, nn.Conv2d) and not hasattr(conv, "gain")]
    hooks = [conv.register_forward_hook(scale) for conv in convs]
    if hooks:
        try:
            module(to_nchw(images(96)))
        except (AssertionError, RuntimeError):  # self-attention made for the model's own size
            module(to_nchw(images(own_size)))
    for hook in hooks:
        hook.remove()
