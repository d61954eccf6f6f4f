"""What the TPU compiler says about a program that it compiles on a machine without a TPU.

`libtpu` holds the compiler; it needs no TPU. Everything it tells is its own estimate, not a measurement.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax

from eca_jax.tpu import hlo
from eca_jax.tpu.topology import Slice

GIB = 2**30


class DoesNotFit(ValueError):
    """The program needs more memory than the chip has."""


@dataclass(frozen=True)
class Estimate:
    """What the compiler says of one program on one device of a slice. Sizes in bytes."""

    cycles: int
    seconds: float  # cycles over the clock; the time of collectives is not in it
    flops: float
    bytes_accessed: float  # XLA's count: every use of every operand, wherever it lies
    hbm_bytes: int  # between the chip and its memory, counted in the scheduled program; a lower bound
    operand_bytes: int  # of operands and results wherever they lie, which placement and prefetches do not move
    bandwidth_seconds: float  # hbm_bytes at the memory's published bandwidth
    matrix_seconds: float  # flops at the matrix units' published peak in bfloat16
    memory: dict[str, int]  # arguments, outputs, temporaries, program; "aliased": outputs that reuse arguments
    memory_total: int
    memory_capacity: int
    all_reduces: list[int]  # bytes of each
    layers: list[tuple[str, int]]  # (layer path, cycles), dearest first
    unestimated: list[str]  # operations that the compiler gives no cycles for
    unestimated_bytes: int  # what those move of hbm_bytes


def compile_program(slice_: Slice, function: Any, *arguments: Any) -> tuple[Any, Estimate]:
    """Compile a jitted `function` of `arguments` (ShapeDtypeStructs) whose shardings lie on `slice_.mesh()`.

    Returns (compiled program, its Estimate). Raises DoesNotFit where the chip's memory is too small.
    """
    lowered = function.lower(*arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sizes = re.findall(r"\d[\d.]*[KMGT]\b", str(error))  # what it needs, what there is
        need = f"needs {sizes[0]} of the chip's {sizes[1]}" if len(sizes) > 1 else str(error).splitlines()[0]
        raise DoesNotFit(f"the program does not fit {slice_.name}: it {need} memory") from error
    return compiled, estimate(compiled, slice_)


def estimate(compiled: Any, slice_: Slice) -> Estimate:
    """Read the compiler's figures off a program compiled for `slice_`."""
    module = hlo.parse(compiled.as_text())
    costs = compiled.cost_analysis()
    sizes = compiled.memory_analysis()
    memory = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes,
        "aliased": sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "program": sizes.generated_code_size_in_bytes,
    }
    cycles, hbm_bytes, chip = module.cycles(), module.hbm_bytes(), slice_.chip
    return Estimate(
        cycles=cycles,
        seconds=cycles / chip.clock_hz,
        flops=costs["flops"],
        bytes_accessed=costs["bytes accessed"],
        hbm_bytes=hbm_bytes,
        operand_bytes=module.operand_bytes(),
        bandwidth_seconds=hbm_bytes / (chip.hbm_bandwidth / chip.devices),
        matrix_seconds=costs["flops"] / (chip.peak_flops / chip.devices),
        memory=memory,
        memory_total=sum(memory.values()) - 2 * memory["aliased"],
        memory_capacity=int(chip.hbm_gib * GIB) // chip.devices,
        all_reduces=module.all_reduces(),
        layers=module.by_layer(),
        unestimated=module.unestimated(),
        unestimated_bytes=module.unestimated_bytes(),
    )


def in_words(unestimated: list[str]) -> str:
    """A list with repetitions as one line: pad bf16[8], 2 x sort s32[4]."""
    counts = Counter(unestimated)
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())
