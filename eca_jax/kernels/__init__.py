"""Operations in the form that is fast on the platform a program is lowered for, and `jit`, which compiles it for that.

A function here computes the same everywhere; traced, it is one name, and its form is chosen when the program that holds
it is lowered. Nothing here asks which devices this machine has while a program is traced.
"""

from eca_jax.kernels.barriers import compute_apart, compute_once
from eca_jax.kernels.channels import one_filter
from eca_jax.kernels.conv import Convolution, conv2d, convolutions
from eca_jax.kernels.elementwise import add_relu
from eca_jax.kernels.means import means
from eca_jax.kernels.platform import by_platform
from eca_jax.kernels.pointwise import Pointwise, pointwise
from eca_jax.kernels.pool import max_pool
from eca_jax.kernels.program import Program, jit
from eca_jax.kernels.scale import batch_statistics, scale_shift
from eca_jax.kernels.turned import turned

__all__ = [
    "Convolution",
    "Pointwise",
    "Program",
    "add_relu",
    "batch_statistics",
    "by_platform",
    "compute_apart",
    "compute_once",
    "conv2d",
    "convolutions",
    "jit",
    "max_pool",
    "means",
    "one_filter",
    "pointwise",
    "scale_shift",
    "turned",
]
