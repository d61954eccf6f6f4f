"""Reading the optimised program text that the TPU compiler returns (`compiled.as_text()`).

The compiler writes its own time estimate, `"estimated_cycles":"N"`, on nearly every instruction that it schedules on
the core. Instructions inside a fusion run as part of it and carry none; data movements that overlap with computation
(`copy-start`/`copy-done` and their kin) and collectives carry none either, so neither is counted. A few real ones carry
none, the gradient of max-pooling, pads, gathers and Pallas kernels among them: `Module.unestimated` names those.

A layout that ends in `S(n)` places an array on the chip (1: vector memory); any other array lies in HBM. That is what
`Module.hbm_bytes` counts, where XLA's "bytes accessed" counts every use of every operand wherever it lies.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(")
_SHAPE = re.compile(r"([a-z]\w*)\[([0-9,]*)\](\{[^{}]*\})?")
_OPERAND = re.compile(r"%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_COMMENT = re.compile(r"/\*.*?\*/")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_NUMBER = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_LIMIT = re.compile(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))")
_ENTERED = ("while", "call", "conditional", "async-start")  # a fusion's estimate covers what it calls
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
# What moves nothing by itself: names, ends of movements whose start is counted, and joins of prefetched slices.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id")
_FREE_CALLS = ("ConcatBitcast", "AllocateBuffer")
_READ_IN_PART = {"gather", "dynamic-slice"}
_WRITTEN_IN_PART = {"scatter", "dynamic-update-slice"}
_COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")

# How people are told of what lies outside every module.
OUTSIDE = "(input normalisation, loss, optimizer)"


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: str  # the result's, as XLA prints it; a tuple's in parentheses
    op_name: str  # where the program asked for it: "jit(step)/jvp(ResNet)/layer1_0/conv1/conv_general_dilated"
    cycles: int  # the compiler's estimate for one execution; 0 where it gives none
    called: tuple[str, ...]  # computations it runs
    trip_count: int  # iterations of a `while`; 1 for everything else, and where they depend on data
    operands: tuple[str, ...] = ()  # the names of the instructions whose results it reads
    target: str = ""  # what a custom call calls

    @property
    def entered(self) -> bool:
        """Whether it stands for the computations that it calls; a fusion does not."""
        return self.opcode in _ENTERED and not self.cycles

    @property
    def free(self) -> bool:
        """Whether it takes no time and moves nothing by itself."""
        ends = self.opcode.endswith(("-done", "-update"))
        return self.opcode in _FREE or ends or self.entered or self.target in _FREE_CALLS


@dataclass(frozen=True)
class Module:
    """A compiled program: its computations by name, and the one where execution starts."""

    computations: dict[str, list[Instruction]]
    entry: str

    def executed(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction reachable from the entry, with how often it runs (fusions are not entered)."""
        for _, instruction, times in self._executed():
            yield instruction, times

    def _executed(self) -> Iterator[tuple[str, Instruction, int]]:
        """As `executed`, with the name of the computation that each stands in."""
        stack = [(self.entry, 1)]
        while stack:
            name, times = stack.pop()
            for instruction in self.computations[name]:
                yield name, instruction, times
                if instruction.entered:
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

    def hbm_bytes(self) -> int:
        """Bytes that one run moves between one core and its HBM, copies included: a count, and a lower bound.

        Each instruction reads each of its operands once and writes its results once, those that do not lie on the
        chip; a fusion that reads one twice, a convolution's overlapping windows and the layouts' padding are not in it.
        Collectives are not either. What gathers or slices reads no more of an array than it writes, and what scatters
        or updates a slice, in place, no more than what it is given beside the array.
        """
        return sum(self._moved(instruction) * times for instruction, times in self._movements())

    def operand_bytes(self) -> int:
        """Bytes of each instruction's operands and results, once each, wherever they lie; without prefetches.

        What of `hbm_bytes` is where the compiler placed arrays and when it fetched them is not in here: two programs
        that compute nearly the same differ by what they compute.
        """
        total = 0
        for (shapes, instruction), times in self._movements():
            if not instruction.opcode.endswith("-start"):
                total += times * sum(size for size, _ in _ends(shapes, instruction))
        return total

    def unestimated_bytes(self) -> int:
        """The share of `hbm_bytes` that the instructions in `unestimated` move."""
        return sum(self._moved(i) * times for i, times in self._movements() if self._lacks_estimate(i[1]))

    def _movements(self) -> Iterator[tuple[tuple[dict[str, str], Instruction], int]]:
        """What moves data, each with the shapes of all results of its computation, and how often it runs."""
        shapes = {name: {i.name: i.shape for i in held} for name, held in self.computations.items()}
        for computation, instruction, times in self._executed():
            if not instruction.free and not instruction.opcode.startswith(_COLLECTIVES):
                yield (shapes[computation], instruction), times

    def _moved(self, movement: tuple[dict[str, str], Instruction]) -> int:
        shapes, instruction = movement
        if instruction.opcode == "copy-start":  # (destination, source, context)
            return sum(size for size, in_hbm in _arrays(instruction.shape)[:2] if in_hbm)
        if instruction.opcode == "slice-start":  # ((source), destination, context): as much is read as is written
            (_, from_hbm), (size, to_hbm) = _arrays(instruction.shape)[:2]
            return size * (from_hbm + to_hbm)
        return sum(size for size, in_hbm in self._parts(shapes, instruction) if in_hbm)

    def _parts(self, shapes: dict[str, str], instruction: Instruction) -> list[tuple[int, bool]]:
        """As `_ends`, but of each array no more than what gathering, scattering and slices touch of it."""
        opcodes = self._opcodes(instruction)
        results = _arrays(instruction.shape)
        operands = [array for name in set(instruction.operands) for array in _arrays(shapes.get(name, ""))]
        if opcodes & _READ_IN_PART and not opcodes & _WRITTEN_IN_PART:
            written = sum(size for size, _ in results)
            operands = [(min(size, written), in_hbm) for size, in_hbm in operands]
        elif opcodes & _WRITTEN_IN_PART and len(results) == 1:
            whole = results[0][0]
            given = sum(size for size, _ in operands if size < whole)
            results, operands = ([(min(size, given), in_hbm) for size, in_hbm in ends] for ends in (results, operands))
        return [*results, *operands]

    def _opcodes(self, instruction: Instruction) -> set[str]:
        """The instruction's, and those of all in a fusion's computations."""
        found = {instruction.opcode}
        for called in instruction.called if instruction.opcode == "fusion" else ():
            for inner in self.computations.get(called, ()):
                found |= self._opcodes(inner)
        return found

    def _lacks_estimate(self, instruction: Instruction) -> bool:
        moves = instruction.free or instruction.opcode.endswith("-start")
        collective = _reduces(self, instruction) or instruction.opcode.startswith(_COLLECTIVES)
        scalar = all(not dims for _, dims, _ in _SHAPE.findall(instruction.shape))
        return not (instruction.cycles or moves or collective or scalar)

    def unestimated(self) -> list[str]:
        """Computing instructions without an estimate, as "opcode shape", in the order of the program.

        A custom call (a Pallas kernel, a sort) is named by what it calls as well. Scalars are left out.
        """
        return [
            " ".join(filter(None, (i.opcode, i.target, re.sub(r"{[^{}]*}", "", i.shape))))
            for i, _ in self.executed()
            if self._lacks_estimate(i)
        ]

    def by_layer(self) -> list[tuple[str, int]]:
        """(layer path, cycles), dearest first; the backward pass of a layer is listed apart from its forward."""
        total: Counter[str] = Counter()
        for instruction, times in self.executed():
            total[layer_path(instruction.op_name)] += instruction.cycles * times
        return [(layer, cycles) for layer, cycles in total.most_common() if cycles]


def parse(text: str) -> Module:
    """Read `compiled.as_text()`. Raises ValueError where it holds no entry computation.

    Where the compiler has not noted how often a loop runs, its condition says so: a counter, from 0, below a number.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, name, current = None, "", None
    numbers: dict[str, int] = {}  # constants by their names
    limits: dict[str, int] = {}  # of counters, by the computations that compare them; those stand before their loops
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            current = computations.setdefault(name, [])
            entry = name if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(_instruction(line, match, limits))
            if number := _NUMBER.search(line):
                numbers[number[1]] = int(number[2])
            elif (limit := _LIMIT.search(line)) and limit[1] in numbers:
                limits[name] = numbers[limit[1]]
    if entry is None:
        raise ValueError("not the text of a compiled XLA program: it has no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str, match: re.Match, limits: Mapping[str, int]) -> Instruction:
    cycles = _CYCLES.search(line)
    op_name = _OP_NAME.search(line)
    trips, condition = _TRIP_COUNT.search(line), _CONDITION.search(line)
    called = tuple(
        name.strip().lstrip("%") for several, one in _CALLED.findall(line) for name in (several or one).split(",")
    )
    target = _TARGET.search(line)
    return Instruction(
        name=match[1],
        opcode=match[3],
        shape=match[2],
        op_name=op_name[1] if op_name else "",
        cycles=int(cycles[1]) if cycles else 0,
        called=called,
        trip_count=int(trips[1]) if trips else limits.get(condition[1], 1) if condition else 1,
        operands=tuple(_OPERAND.findall(_parenthesis(line, match.end()))),
        target=target[1] if target else "",
    )


def _parenthesis(line: str, start: int) -> str:
    """The text from `start` to the parenthesis that closes the one before it."""
    depth = 1
    for end in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[end], 0)
        if not depth:
            return line[start:end]
    return line[start:]


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
    return sum(size for size, _ in _arrays(shape))


def _ends(shapes: dict[str, str], instruction: Instruction) -> list[tuple[int, bool]]:
    """The arrays of an instruction's result and of its operands, each operand once; see `_arrays`."""
    ends = [instruction.shape, *(shapes.get(name, "") for name in set(instruction.operands))]
    return [array for shape in ends for array in _arrays(shape)]


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """(bytes, whether it lies in HBM) of each array of an HLO shape, in order."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(_COMMENT.sub("", shape)):
        bits = 8 if dtype in ("pred", "token") else int(re.sub(r"\D*(\d+).*", r"\1", dtype) or 8)
        elements = math.prod(int(dim) for dim in dims.split(",") if dim)
        found.append((elements * bits // 8, not re.search(r"S\([1-9]\d*\)\}$", layout)))
    return found


def layer_path(op_name: str) -> str:
    """The Flax module path in an instruction's `op_name`, with " (backward)" for the gradient's part.

    What lies outside every module becomes `OUTSIDE`.
    """
    parts = op_name.split("/")[:-1]
    modules = [part for part in parts if "(" not in part and part not in ("while", "body", "cond", "closed_call")]
    in_model = re.search(r"jvp\(\w+\)", op_name)  # the model's own lines, between its layers
    path = "/".join(modules) or ("(between layers)" if in_model else OUTSIDE)
    return path + " (backward)" * ("transpose(" in op_name)
