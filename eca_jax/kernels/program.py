"""`jit`, through which every program of the project goes: what XLA needs on a platform beside the right forms."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax import lax
from jax.sharding import Sharding

from eca_jax.kernels.shifts import split

# Keeps XLA from handing convolutions to YNNPACK, as jaxlib 0.10 does unasked: Eigen is faster, and exacter for kernel
# gradients (BENCHMARKS.md, "Convolutions on a CPU"). Matrix products and reductions stay with YNNPACK.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}
_ROWS_AT_A_TIME = 4


def jit(function: Callable[..., Any], *, rows: int | None = None, **jit_options: Any) -> "Program":
    """`jax.jit(function, **jit_options)` with what the platform needs that it is compiled for.

    That platform is the one of the devices in `in_shardings` or `out_shardings`, else of the arguments (arrays that are
    committed to a device, `ShapeDtypeStruct`s with a sharding), else of `jax.default_device` or the default backend; it
    is looked up anew at each call. Called inside another program, the function is a part of that program and takes
    what it is compiled with.

    Args:
      function: pure.
      rows: the number of the positional argument, an array or a tree of arrays, whose leading axes, and those of all
        results, are independent examples. Compiled for one CPU device, the program takes a few examples at a time: the
        feature maps of a whole batch would not stay in the cache. See BENCHMARKS.md, "Images at a time on a CPU".
      **jit_options: of `jax.jit`; `compiler_options` are not among them.
    """
    return Program(function, rows, jit_options)


class Program:
    """What `jit` returns; like what `jax.jit` returns, it is called, or lowered: `.lower(*arguments).compile()`."""

    def __init__(self, function: Callable[..., Any], rows: int | None, jit_options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._shardings = list(_shardings((jit_options.get("in_shardings"), jit_options.get("out_shardings"))))
        on_cpu = functools.partial(jax.jit, **jit_options, compiler_options=_CPU_OPTIONS)
        self._plain = jax.jit(function, **jit_options)
        self._on_cpus = on_cpu(function)
        self._on_one_cpu = self._on_cpus if rows is None else on_cpu(_few_at_a_time(function, rows))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._for(args, kwargs)(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """As the same method of a `jax.jit` function; arguments may be `ShapeDtypeStruct`s."""
        return self._for(args, kwargs).lower(*args, **kwargs)

    def _for(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The jitted function for the devices that these arguments mean."""
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._plain
        platform, count = self._devices(leaves)
        if platform != "cpu":
            return self._plain
        return self._on_one_cpu if count == 1 else self._on_cpus

    def _devices(self, leaves: list[Any]) -> tuple[str, int]:
        """Platform and number of the devices to compile for."""
        for sharding in (*self._shardings, *_shardings(leaves)):
            devices: set[Any] = sharding.device_set
            return next(iter(devices)).platform, len(devices)
        config: Any = jax.config  # its names are not in its type
        device = config.jax_default_device
        if device is None:
            return jax.default_backend(), 1
        return device if isinstance(device, str) else device.platform, 1


def _shardings(tree: Any) -> Iterable[Sharding]:
    """The shardings in a tree: those that are its leaves, and those that tie a leaf to devices."""
    for leaf in jax.tree.leaves(tree):
        tied = isinstance(leaf, jax.ShapeDtypeStruct) or (isinstance(leaf, jax.Array) and leaf.committed)
        sharding = leaf.sharding if tied else leaf
        if isinstance(sharding, Sharding):
            yield sharding


def _few_at_a_time(function: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """`function`, on a few of the rows of argument number `rows` at a time, where their number divides."""

    @functools.wraps(function)
    def in_parts(*args: Any, **kwargs: Any) -> Any:
        examples = len(jax.tree.leaves(args[rows])[0])
        count = math.gcd(examples, _ROWS_AT_A_TIME)
        if count == examples:
            return function(*args, **kwargs)

        def part(few: Any) -> Any:
            return function(*args[:rows], few, *args[rows + 1 :], **kwargs)

        results = lax.map(part, jax.tree.map(lambda x: split(x, examples // count), args[rows]))
        return jax.tree.map(lambda y: y.reshape(examples, *y.shape[2:]), results)

    return in_parts
