"""What a model takes in: how an image becomes the array that the network sees."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic")
RGB = 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How evaluation prepares an image: resize the short side, centre crop, scale to [0, 1], normalise.

    Attributes:
      image_size: pixels, the side of the crop.
      crop_pct: the crop's share of the short side.
      interpolation: "bilinear" or "bicubic", both antialiased.
      mean, std: of each channel, of values in [0, 1]. As many as there are say how an image is read: 1 as grey, 3 as
        RGB, 4 as RGBA.

    Raises:
      ValueError: a size below 1, a share outside (0, 1], or `mean` and `std` of different lengths.
    """

    image_size: int = 224
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, not {self.image_size}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, not {self.crop_pct}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}")
        if not 0 < len(self.mean) == len(self.std):
            raise ValueError(f"mean and std take one value for each channel, not {len(self.mean)} and {len(self.std)}")

    @property
    def channels(self) -> int:
        """Of an image."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a prepared image: [S, S, C]."""
        return (self.image_size, self.image_size, self.channels)

    def for_channels(self, count: int) -> "Preprocessing":
        """The same for another number of channels: grey has the means of red's, green's and blue's `mean` and `std`.

        So has each channel beyond those there are, such as alpha, and each of two.
        """
        if count == self.channels:
            return self

        def values(known: tuple[float, ...]) -> tuple[float, ...]:
            kept = known if len(known) < count else ()
            return (*kept, *[statistics.fmean(known)] * (count - len(kept)))

        return dataclasses.replace(self, mean=values(self.mean), std=values(self.std))

    @property
    def resize_size(self) -> int:
        """Pixels of the short side before the crop, rounded down as timm does: 256 for 224, 248 for 224 and 0.9."""
        return math.floor(self.image_size / self.crop_pct)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `resize_size` is there for readers without this class."""
        fields = dataclasses.asdict(self)
        return fields | {"mean": list(self.mean), "std": list(self.std), "resize_size": self.resize_size}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Preprocessing":
        """Inverse of `to_json`. Raises ValueError or TypeError for anything else."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content.items()
            if key != "resize_size"
        }
        return cls(**fields)


def channels_of(model: nn.Module) -> int:
    """Channels of the images that a network takes: its `in_chans`, 3 where it has no such field."""
    return getattr(model, "in_chans", RGB)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any) -> jax.Array:
    """(images / 255 - mean) / std per channel, uint8 -> `dtype`: one multiply-add, rounded once from float32."""
    means, deviations = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return (images.astype(jnp.float32) * (1 / (255 * deviations)) - means / deviations).astype(dtype)


def on_pixels(model: nn.Module, preprocessing: Preprocessing) -> Callable[[Any, jax.Array], Any]:
    """`predict(variables, images) -> output`: what the model returns for uint8 images [N, H, W, C] at inference.

    To be compiled by `kernels.jit(..., rows=1)`.
    """

    def predict(variables: Any, images: jax.Array) -> Any:
        inputs = normalize(images, preprocessing.mean, preprocessing.std, model.dtype)
        return model.apply(variables, inputs, train=False)

    return predict
