"""Random operations on training images, by name, on PIL images."""

from collections.abc import Iterable

from PIL import Image

from eca_jax.data.augment.crop import HorizontalFlip, RandomResizedCrop
from eca_jax.data.augment.operation import OnGrey, Operation
from eca_jax.data.augment.pixels import Moving, check_interpolation
from eca_jax.data.augment.spec import parse
from eca_jax.data.order import example_rng

__all__ = [
    "HorizontalFlip",
    "Moving",
    "OnGrey",
    "Operation",
    "RandomResizedCrop",
    "augmented",
    "check_interpolation",
    "parse",
]


def augmented(
    image: Image.Image, operations: Iterable[Operation], seed: int, epoch: int, index: int, copy: int = 0
) -> Image.Image:
    """The image after all operations, each with the draws that belong to it, to this example, epoch and copy."""
    for operation in operations:
        image = operation(image, example_rng(seed, epoch, index, operation.name, copy))
    return image
