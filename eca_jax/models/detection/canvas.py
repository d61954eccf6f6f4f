"""Images of several sizes in one array: what lies beyond an image must not reach it.

Detectors pad an image to a multiple of 32, and convolutions and average pools see that padding. An array that is
larger still would change the result: zero pixels are no zero activations after a BatchNorm. Here a convolution of
more than one tap sees zeros beyond the padded size, a max-pool nothing, a channel gate the mean of the padded size;
then each image of a batch has the features that it has alone.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.layers.attention import ChannelGate
from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm

MULTIPLE = 32


def long_side(short: int) -> int:
    """Pixels that the long side of an image is resized to at most: 1333 for a short side of 800."""
    return short * 5 // 3


def canvas_of(short: int) -> tuple[int, int]:
    """Height and width of the canvas that holds every broad image of that short side: 800 and 1344 for 800."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in (short, long_side(short)))
    return height, width


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The areas of an array that belong to its images.

    Attributes:
      shape: height and width of the array, multiples of 32.
      sizes: int32 [N, 2], the images' height and width.
    """

    shape: tuple[int, int]
    sizes: jax.Array

    def __post_init__(self) -> None:
        if any(size % MULTIPLE for size in self.shape):
            raise ValueError(f"a canvas has multiples of {MULTIPLE} pixels a side, not {self.shape}")

    @property
    def padded(self) -> jax.Array:
        """The images' sizes rounded up to a multiple of 32, int32 [N, 2]."""
        return -(-self.sizes // MULTIPLE) * MULTIPLE

    def grid(self, shape: tuple[int, int]) -> jax.Array:
        """Rows and columns, int32 [N, 2], of a feature map of that height and width that belong to the images."""
        stride = 1
        # Each layer of stride 2 rounds up; where two strides give one shape it is a single cell.
        while (math.ceil(self.shape[0] / stride), math.ceil(self.shape[1] / stride)) != shape:
            stride *= 2
            if stride > 2 * max(self.shape):
                raise ValueError(f"a feature map of {shape} is not of a canvas of {self.shape}")
        return -(-self.padded // stride)

    def inside(self, x: jax.Array, grid: jax.Array | None = None) -> jax.Array:
        """bool [N, H, W, 1] for a feature map x [N, H, W, C]: which cells belong to the images."""
        _, height, width, _ = x.shape
        grid = self.grid((height, width)) if grid is None else grid
        rows, columns = jnp.arange(height) < grid[:, :1], jnp.arange(width) < grid[:, 1:]
        return (rows[:, :, None] & columns[:, None, :])[..., None]

    def masked(self, x: jax.Array) -> jax.Array:
        """x [N, H, W, C] with zeros beyond the images' padded sizes."""
        return jnp.where(self.inside(x), x, jnp.zeros((), x.dtype))

    def share(self, x: jax.Array) -> jax.Array:
        """Cells of a feature map over those that belong to the image, float32 [N, 1]."""
        _, height, width, _ = x.shape
        grid = self.grid((height, width))
        return (height * width / (grid[:, 0] * grid[:, 1]).astype(jnp.float32))[:, None]


@contextlib.contextmanager
def valid_area(canvas: Canvas) -> Iterator[None]:
    """Modules called inside see the canvas's images only: convolutions, BatchNorm before a max-pool, channel gates."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module, method = context.module, context.method_name
        if isinstance(module, Conv) and method == "__call__":
            if kwargs.get("with_mean"):
                if module.use_bias:
                    raise ValueError("on a canvas a convolution's mean is taken without bias")
                y, mean = call(canvas.masked(args[0]), *args[1:], **kwargs)
                return y, mean * canvas.share(args[0])
            if module.kernel_size > 1:
                return call(canvas.masked(args[0]), *args[1:], **kwargs)
        elif isinstance(module, BatchNorm) and method == "rising":
            x, scale, shift = call(*args, **kwargs)
            # Not -inf, which a scale of zero would turn into NaN.
            return jnp.where(canvas.inside(x), x, jnp.asarray(-1e30, x.dtype)), scale, shift
        elif isinstance(module, ChannelGate) and method == "__call__":
            x = args[0]
            pooled = jnp.mean(canvas.masked(x), axis=(1, 2), dtype=jnp.float32) * canvas.share(x)
            return x * module.gate(pooled)[:, None, None, :].astype(x.dtype)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield
