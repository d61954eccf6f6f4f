"""Weights of networks for RGB images in networks for grey images, or for images of other channels."""

import numpy as np

from eca_jax.models.inputs import RGB


def adapted(kernel: np.ndarray, in_chans: int) -> np.ndarray:
    """A first convolution's kernel for images of `in_chans` channels.

    As timm adapts it (`timm.models.adapt_input_conv`): for one channel the three are summed, which for a grey picture
    gives what RGB of three equal channels gave, up to their means; for others the three are repeated, as far as
    needed, and scaled by 3 / in_chans.

    Args:
      kernel: float32 [h, w, 3, features].

    Returns:
      float32 [h, w, in_chans, features].

    Raises:
      ValueError: the kernel is of other than 3 channels.
    """
    if (there := kernel.shape[2]) != RGB:
        raise ValueError(f"the weights are of {there} input channels: only those of {RGB} become in_chans={in_chans}")
    if in_chans == 1:
        return kernel.sum(axis=2, keepdims=True, dtype=np.float32)
    repeated = np.take(kernel, np.arange(in_chans) % RGB, axis=2)
    return repeated * np.float32(RGB / in_chans)


def described(in_chans: int) -> str:
    """What `adapted` does, for people."""
    how = "summed" if in_chans == 1 else f"repeated and scaled by 3/{in_chans}"
    return f"first convolution adapted to in_chans={in_chans}: its 3 input channels {how}"
