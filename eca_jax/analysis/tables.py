"""The paper's complexity tables, ours beside theirs. Nothing is computed but counts: networks are traced, not compiled.

A difference is that of the digits that the paper prints. It is zero, or the row's verdict and note say what is known.
"""

import csv
import dataclasses
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import jax
from flax.core import FrozenDict

from eca_jax.analysis.counts import ModuleCounter, PaperCounter, definition, trace
from eca_jax.analysis.detection_counts import count_detector
from eca_jax.analysis.paper import BLOCKS, TABLES, TITLES, Row, Rule, Variant
from eca_jax.models import preprocessing
from eca_jax.models.resnet import BasicBlock


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table with our counts; None where the paper prints nothing, or nothing is counted here.

    Attributes:
      units, rule: of both sides.
      parameters_paper, operations_paper: as printed; for Table 2 the formula's value.
      parameters, operations: ours, exact.
      parameters_shown, operations_shown: ours in the row's units, to the paper's digits.
      parameters_difference, operations_difference: shown less printed.
    """

    table: str
    network: str
    model: str | None
    units: str
    rule: str
    parameters_paper: str
    parameters: int | None
    parameters_shown: str | None
    parameters_difference: str | None
    operations_paper: str | None
    operations: int | None
    operations_shown: str | None
    operations_difference: str | None
    verdict: str
    note: str
    top1: str
    top5: str


def count_network(model: str, rule: Rule, **overrides: Any) -> tuple[int, int]:
    """Parameters and operations of a network by a rule. Raises ValueError as `create_model` does."""
    if rule.counts == "coco":
        found = count_detector(model, **overrides)
        return found.trained_parameters, found.paper_operations
    parameters, operations = _count(model, tuple(sorted((key, _frozen(value)) for key, value in overrides.items())))
    return parameters, operations[rule.counts]


def _frozen(value: Any) -> Any:
    return FrozenDict(value) if isinstance(value, Mapping) else value


@functools.cache
def _count(model: str, overrides: tuple[tuple[str, Any], ...]) -> tuple[int, dict[str, int]]:
    """Parameters, and the operations by every rule of `Rule.counts` for classifiers, in one trace."""
    network = definition(model, **dict(overrides))
    activations = getattr(network, "block", None) is not BasicBlock
    paper, pools = PaperCounter(activations), PaperCounter(activations, pool_modules=True)
    modules = ModuleCounter()
    variables, operations = trace(network, preprocessing(model).image_size, paper, pools, modules)
    counts = {"paper": paper.operations, "pools": pools.operations, "modules": modules.operations, "all": operations}
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"])), counts


def lines(tables: Iterable[str] = tuple(TABLES)) -> list[Line]:
    """The tables of these names, row by row.

    Raises:
      ValueError: there is no such table.
    """
    unknown = [name for name in tables if name not in TABLES]
    if unknown:
        raise ValueError(f"no table {unknown[0]!r}: there are {', '.join(TABLES)}")
    return [_line(row) for name in tables for row in TABLES[name]]


def _line(row: Row) -> Line:
    texts: dict[str, Any] = {
        "network": row.network,
        "model": row.model,
        "verdict": row.verdict,
        "top1": row.top1,
        "top5": row.top5,
    }
    if row.formula is not None:
        return _ablation(row, texts)
    parameters = operations = None
    if row.model is not None:
        parameters, operations = count_network(row.model, row.rule, **row.overrides)
    shown = [
        _shown(value, unit, printed)
        for value, unit, printed in (
            (parameters, row.rule.parameters, row.parameters),
            (operations, row.rule.operations, row.operations),
        )
    ]
    notes = filter(None, (row.note, *(_hypothesis(variant, row) for variant in row.hypotheses)))
    return Line(
        table=row.table,
        units=row.rule.units,
        rule=row.rule.text,
        parameters_paper=row.parameters,
        parameters=parameters,
        parameters_shown=shown[0],
        parameters_difference=_difference(shown[0], row.parameters),
        operations_paper=row.operations,
        operations=operations,
        operations_shown=shown[1],
        operations_difference=_difference(shown[1], row.operations),
        note="; ".join(notes),
        **texts,
    )


def _ablation(row: Row, texts: dict[str, Any]) -> Line:
    """A row of Table 2: what the attention adds, against the paper's formula over the network's blocks."""
    assert row.model is not None and row.formula is not None
    plain = count_network(row.model, row.rule, attention=None)[0]
    added = count_network(row.model, row.rule, **row.overrides)[0] - plain
    expected = sum(row.formula(channels) for channels in BLOCKS)
    total = f"{(plain + added) / row.rule.parameters:.3f} x 2^20 in all"
    return Line(
        table=row.table,
        units="1",
        rule=f"{row.parameters} in each of {len(BLOCKS)} blocks",
        parameters_paper=str(expected),
        parameters=added,
        parameters_shown=str(added),
        parameters_difference=_difference(str(added), str(expected)),
        operations_paper=None,
        operations=None,
        operations_shown=None,
        operations_difference=None,
        note=f"{row.note}; {total}",
        **texts,
    )


def _shown(value: int | None, unit: int, printed: str) -> str | None:
    """A count in a unit, to as many digits as are printed."""
    return None if value is None else f"{value / unit:.{-int(Decimal(printed).as_tuple().exponent)}f}"


def _difference(shown: str | None, printed: str) -> str | None:
    if shown is None:
        return None
    difference = Decimal(shown) - Decimal(printed)
    return "0" if not difference else f"{difference:+}"


def _hypothesis(variant: Variant, row: Row) -> str:
    parameters, operations = count_network(variant.model, variant.rule, **variant.overrides)
    rule = variant.rule
    digits = f"{parameters / rule.parameters:.3f} / {operations / rule.operations:.3f}"
    units = "" if rule.units == row.rule.units else f" ({rule.units})"
    return f"hypothesis: {variant.text}: {digits}{units}"


def as_markdown(found: Sequence[Line]) -> str:
    """The lines as Markdown, a table under each title, with what the columns mean below."""
    blocks = []
    for table in dict.fromkeys(line.table for line in found):
        rows = [line for line in found if line.table == table]
        header = ["network", "params, paper", "ours", "difference"]
        counted = any(line.operations_paper for line in rows)
        header += ["operations, paper", "ours", "difference"] if counted else []
        header += ["units", "rule", "verdict", "top-1 / top-5 (paper)", "note"]
        body = [header, ["---"] * len(header)]
        for line in rows:
            cells = [line.network, line.parameters_paper, line.parameters_shown, line.parameters_difference]
            if counted:
                cells += [line.operations_paper, line.operations_shown, line.operations_difference]
            accuracy = " / ".join(filter(None, (line.top1, line.top5)))
            body.append([cell or "-" for cell in (*cells, line.units, line.rule, line.verdict, accuracy, line.note)])
        blocks.append(f"## {TITLES[table]}\n\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in body))
    return "\n\n".join([*blocks, LEGEND])


LEGEND = (
    "Exact: one rule, no choice of ours, gives the printed figures. Fit: conventions were tried until one gave them, "
    "which makes it a hypothesis; ours is the network as published. Open: not reached. Quoted: not counted here."
)


def as_csv(found: Sequence[Line]) -> str:
    """The lines as CSV with a header, empty where there is nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Line)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(line) for line in found)
    return text.getvalue()
