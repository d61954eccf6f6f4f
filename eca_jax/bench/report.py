"""Tables, JSON and plots of benchmark results, and the description of the machine that belongs beside them."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from eca_jax.files import replacing


@dataclass(frozen=True)
class Report:
    """What a benchmark found: plain data, the same for people to read, and {axis label: {name: bar}} to draw.

    A bar is a number, or a triple (low, middle, high).
    """

    result: Mapping[str, Any]
    text: str
    bars: Mapping[str, Mapping[str, Any]]


def machine() -> dict[str, Any]:
    """What the results depend on: device, cores, versions."""
    device = jax.devices()[0]
    return {
        "device": _cpu_name() if device.platform == "cpu" else device.device_kind,
        "devices": len(jax.devices()),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table; numbers are right-aligned and already formatted as text."""
    header = list(rows[0])
    widths = [max(len(key), *(len(str(row[key])) for row in rows)) for key in header]
    lines = [
        "| " + " | ".join(key.ljust(width) for key, width in zip(header, widths, strict=True)) + " |",
        "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|",
    ]
    for row in rows:
        cells = [
            str(row[key]).rjust(width) if i else str(row[key]).ljust(width)
            for i, (key, width) in enumerate(zip(header, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(bars: Mapping[str, Mapping[str, Any]], path: str) -> None:
    """One panel of horizontal bars for each axis label; a triple (low, middle, high) gets an error bar."""
    from matplotlib.figure import Figure

    rows = max(len(panel) for panel in bars.values())
    figure = Figure(figsize=(6 * len(bars), 1.2 + 0.45 * rows), layout="constrained")
    for axes, (label, panel) in zip(figure.subplots(1, len(bars), squeeze=False)[0], bars.items(), strict=True):
        triples = [value if isinstance(value, tuple) else (value,) * 3 for value in panel.values()]
        middle = [m for _, m, _ in triples]
        errors = [[m - low for low, m, _ in triples], [high - m for _, m, high in triples]]
        drawn = axes.barh(list(panel), middle, xerr=errors if any(map(any, errors)) else None, capsize=3)
        axes.bar_label(drawn, fmt="%.4g", padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(label)
    with replacing(path) as temporary:
        figure.savefig(temporary)
