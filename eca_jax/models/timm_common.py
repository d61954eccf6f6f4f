"""What timm's families share: its preprocessing and its rule for ECA's kernel size."""

from collections.abc import Callable, Sequence

from flax import linen as nn

from eca_jax.layers.attention import eca_kernel_size
from eca_jax.models.inputs import Preprocessing
from eca_jax.models.naming import TIMM_STAGES, Naming
from eca_jax.models.registry import register


def register_timm(
    name: str,
    build: Callable[..., nn.Module],
    *,
    naming: Naming = TIMM_STAGES,
    image_size: int = 224,
    crop_pct: float = 0.875,
) -> None:
    """Registers a model under timm's name, with the preprocessing that timm gives its default weights.

    The sizes are timm's `input_size` and `crop_pct`, those of training; for many weights timm also lists a larger
    `test_input_size`, at which they score higher.
    """
    preprocessing = Preprocessing(image_size, crop_pct, interpolation="bicubic")
    register(name, build, weights_format="timm", naming=naming, preprocessing=preprocessing)


def kernel_size_rule(channels: Sequence[int]) -> tuple[int, ...]:
    """timm's kernel size of ECA for stages of these channels: the paper's formula, and at least 3."""
    return tuple(max(eca_kernel_size(c), 3) for c in channels)
