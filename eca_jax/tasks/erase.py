"""Random erasing inside the training step: rectangles of normalised images filled with noise or with the mean.

Zhong et al., AAAI 2020, as timm's `RandomErasing` has it. Every example draws from its own key, so nothing is
communicated.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eca_jax.kernels import compute_apart

FILLS = ("pixel", "color", "mean")
# Rectangles that are tried, of which the first that fits is erased.
ATTEMPTS = 10
# Random bits of a value of noise: 1024 values between -3.3 and 3.3 deviations.
BITS = 10


class Boxes(NamedTuple):
    """Rectangles int32 [N, count]: rows from `top`, columns from `left`; of no height where nothing is erased."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


@dataclasses.dataclass(frozen=True)
class Erase:
    """Random erasing.

    Attributes:
      probability: of erasing anything of an image.
      fill: "pixel", normal noise in each value; "color", one normal value a channel; "mean", zeros.
      count: rectangles at most, from 1 on; their area is shared among them.
      area: of the rectangles, (least, most) share of the image's.
      aspect: height over width, from this to its inverse.

    Raises:
      ValueError: a value out of its range.
    """

    probability: float = 0.0
    fill: str = "pixel"
    count: int = 1
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: float = 0.3

    def __post_init__(self) -> None:
        if self.fill not in FILLS:
            raise ValueError(f"unknown fill {self.fill!r} of erasing: choose one of {', '.join(FILLS)}")
        if not (0 <= self.probability <= 1 and self.count >= 1 and 0 < self.area[0] <= self.area[1] <= 1):
            raise ValueError("erasing takes a probability in [0, 1], a count of 1 or more and shares of the area")

    def __bool__(self) -> bool:
        return self.probability > 0

    def boxes(self, key: jax.Array, rows: jax.Array, height: int, width: int) -> Boxes:
        """The rectangles of the examples in these rows of the batch, int32 [N]."""
        low, high = math.log(self.aspect), -math.log(self.aspect)

        def draw(row: jax.Array) -> Boxes:
            # Of one call, see `Mix.draws`.
            drawn = jax.random.uniform(jax.random.fold_in(key, row), (2 + self.count * (2 * ATTEMPTS + 2),))
            number = jnp.where(drawn[1] < self.probability, 1 + _below(drawn[0], self.count), 0)
            areas, ratios, places = jnp.split(drawn[2:], (self.count * ATTEMPTS, 2 * self.count * ATTEMPTS))
            least, most = self.area
            area = (least + (most - least) * areas.reshape(-1, ATTEMPTS)) * (height * width) / jnp.maximum(number, 1)
            ratio = jnp.exp(low + (high - low) * ratios.reshape(-1, ATTEMPTS))
            tall, wide = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
            fits = (tall < height) & (wide < width)
            first = jnp.argmax(fits, axis=1)[:, None]
            tall, wide = (jnp.take_along_axis(side, first, axis=1)[:, 0].astype(jnp.int32) for side in (tall, wide))
            tall = jnp.where(fits.any(axis=1) & (jnp.arange(self.count) < number), tall, 0)
            top, left = places.reshape(2, -1)
            return Boxes(_below(top, height - tall + 1), _below(left, width - wide + 1), tall, wide)

        return jax.vmap(draw)(rows)

    def images(self, images: jax.Array, key: jax.Array, rows: jax.Array) -> jax.Array:
        """Normalised images [N, H, W, C] with their rectangles filled; the dtype stays."""
        _, height, width, channels = images.shape
        place, noise = jax.random.split(key)
        boxes = self.boxes(place, rows, height, width)
        y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
        erased = jnp.zeros(images.shape[:3], bool)
        for index in range(self.count):
            top, left, tall, wide = (edge[:, index, None, None] for edge in boxes)
            erased |= (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
        if self.fill == "mean":
            return jnp.where(erased[..., None], jnp.zeros((), images.dtype), images)
        if self.fill == "pixel":
            drawn = normal_noise(noise, rows, height, width, channels).astype(images.dtype)
        else:
            shape = 1, 1, channels
            drawn = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(noise, row), shape, images.dtype))(rows)
        return jnp.where(erased[..., None], drawn, images)


def normal_noise(key: jax.Array, rows: jax.Array, height: int, width: int, channels: int) -> jax.Array:
    """Normal values float32 [N, height, width, channels], each row's from its own key.

    Each is of `BITS` random bits, one of as many values of equal probability: a word serves several channels, since a
    word costs a TPU more than all else that erasing does with it.
    """
    a_word = 32 // BITS
    shape = height, width, -(-channels // a_word)
    words = jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), shape))(rows)
    words = jnp.repeat(compute_apart(words), a_word, axis=-1)[..., :channels]
    shifts = (jnp.arange(channels, dtype=jnp.uint32) % a_word) * BITS
    numbers = ((words >> shifts) & (2**BITS - 1)).astype(jnp.int32).astype(jnp.float32)
    return math.sqrt(2) * jax.lax.erf_inv((2 * numbers + 1) / 2**BITS - 1)


def _below(uniforms: jax.Array, bounds: jax.Array | int) -> jax.Array:
    """Integers from 0 to bounds - 1, int32, from numbers between 0 and 1."""
    return jnp.minimum((uniforms * bounds).astype(jnp.int32), bounds - 1)
