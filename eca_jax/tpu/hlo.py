"""Reading the optimised program text that the TPU compiler returns (`compiled.as_text()`).

The compiler writes its own time estimate, `"estimated_cycles":"N"`, on nearly every instruction that it schedules on
the core. Instructions inside a fusion run as part of it and carry none; data movements that overlap with computation
(`copy-start`/`copy-done` and their kin) and collectives carry none either, so neither is counted. A few real ones carry
none, the gradient of max-pooling among them: `Module.unestimated` names those.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(")
_SHAPE = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))")
_ENTERED = ("while", "call", "conditional", "async-start")  # a fusion's estimate covers what it calls
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
# What takes time by itself; `custom-call` is mostly a join of prefetched slices, which takes none.
_COMPUTING = ("fusion", "convolution", "select-and-scatter", "reduce-window", "reduce", "sort", "scatter", "transpose")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: str  # the result's, as XLA prints it; a tuple's in parentheses
    op_name: str  # where the program asked for it: "jit(step)/jvp(ResNet)/layer1_0/conv1/conv_general_dilated"
    cycles: int  # the compiler's estimate for one execution; 0 where it gives none
    called: tuple[str, ...]  # computations it runs
    trip_count: int  # iterations of a `while`; 1 for everything else, and where the compiler does not know


@dataclass(frozen=True)
class Module:
    """A compiled program: its computations by name, and the one where execution starts."""

    computations: dict[str, list[Instruction]]
    entry: str

    def executed(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction reachable from the entry, with how often it runs (fusions are not entered)."""
        stack = [(self.entry, 1)]
        while stack:
            name, times = stack.pop()
            for instruction in self.computations[name]:
                yield instruction, times
                if instruction.opcode in _ENTERED and not instruction.cycles:
                    stack += [(called, times * instruction.trip_count) for called in instruction.called]

    def cycles(self) -> int:
        """The compiler's estimate of one run on one core, in clock cycles; collectives are not in it."""
        return sum(instruction.cycles * times for instruction, times in self.executed())

    def all_reduces(self) -> list[int]:
        """Bytes each executed all-reduce combines, largest first (an asynchronous pair is one)."""
        sizes: list[int] = []
        for instruction, times in self.executed():
            if _reduces(self, instruction):
                sizes += [shape_bytes(instruction.shape)] * times
        return sorted(sizes, reverse=True)

    def unestimated(self) -> list[str]:
        """Computing instructions without an estimate, as "opcode shape", in the order of the program."""
        return [
            f"{instruction.opcode} {re.sub(r'{.*', '', instruction.shape)}"
            for instruction, _ in self.executed()
            if instruction.opcode in _COMPUTING and not instruction.cycles
        ]

    def by_layer(self) -> list[tuple[str, int]]:
        """(layer path, cycles), dearest first; the backward pass of a layer is listed apart from its forward."""
        total: Counter[str] = Counter()
        for instruction, times in self.executed():
            total[layer_path(instruction.op_name)] += instruction.cycles * times
        return [(layer, cycles) for layer, cycles in total.most_common() if cycles]


def parse(text: str) -> Module:
    """Read `compiled.as_text()`. Raises ValueError where it holds no entry computation."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(_instruction(line, match))
    if entry is None:
        raise ValueError("not the text of a compiled XLA program: it has no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str, match: re.Match) -> Instruction:
    cycles = _CYCLES.search(line)
    op_name = _OP_NAME.search(line)
    trips = _TRIP_COUNT.search(line)
    called = tuple(
        name.strip().lstrip("%") for several, one in _CALLED.findall(line) for name in (several or one).split(",")
    )
    return Instruction(
        name=match[1],
        opcode=match[3],
        shape=match[2],
        op_name=op_name[1] if op_name else "",
        cycles=int(cycles[1]) if cycles else 0,
        called=called,
        trip_count=int(trips[1]) if trips else 1,
    )


def _reduces(module: Module, instruction: Instruction) -> bool:
    """Whether `instruction` is an all-reduce, or a fusion that holds one (the compiler fuses them with copies)."""
    if instruction.opcode in ("all-reduce", "all-reduce-start"):
        return True
    return instruction.opcode == "fusion" and any(
        inner.opcode in ("all-reduce", "all-reduce-start")
        for called in instruction.called
        for inner in module.computations.get(called, ())
    )


def shape_bytes(shape: str) -> int:
    """Bytes of an HLO shape such as `f32[128,64]{1,0}` or a tuple of them, without the layout's padding."""
    total = 0
    for dtype, dims in _SHAPE.findall(shape.split(" /*")[0] if not shape.startswith("(") else shape):
        bits = 8 if dtype in ("pred", "token") else int(re.sub(r"\D*(\d+).*", r"\1", dtype) or 8)
        elements = 1
        for dim in filter(None, dims.split(",")):
            elements *= int(dim)
        total += elements * bits // 8
    return total


def layer_path(op_name: str) -> str:
    """The Flax module path in an instruction's `op_name`, with " (backward)" for the gradient's part.

    What lies outside every module (input normalisation, loss, optimizer) becomes "(outside the model)".
    """
    parts = op_name.split("/")[:-1]
    modules = [part for part in parts if "(" not in part and part not in ("while", "body", "cond", "closed_call")]
    in_model = re.search(r"jvp\(\w+\)", op_name)  # the model's own lines, between its layers
    path = "/".join(modules) or ("(between layers)" if in_model else "(outside the model)")
    return path + " (backward)" * ("transpose(" in op_name)
