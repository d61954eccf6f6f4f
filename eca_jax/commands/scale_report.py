"""`eca-jax scale-report`: throughput and limits of TPU slices, from the plans that a dry run prints.

The plans hold the compiler's estimate of one chip's work; the rest are published figures of the chips and their
networks. Nothing here is a measurement, except the decoding rate that the user gives.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from eca_jax.bench.report import table
from eca_jax.tpu.scaling import scale


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("scale-report", help="throughput and limits of TPU slices", description=__doc__)
    parser.add_argument("plans", nargs="+", metavar="PLAN.json", help="what train.py --dry_run=TOPOLOGY --json printed")
    parser.add_argument("--slices", type=int, help="one more row: the last plan on this many slices as one job")
    parser.add_argument(
        "--decode_rate", type=float, required=True, help="images/s that one host core decodes: bench data --workers 1"
    )
    parser.add_argument("--image_kilobytes", type=float, default=110, help="of an encoded image; ImageNet's mean")
    parser.add_argument("--write_rate", type=float, default=100, help="MB/s into the bucket, an assumption")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    plans = [(_read(path), 1) for path in options.plans]
    if options.slices is not None:
        plans.append((plans[-1][0], options.slices))
    rows = [
        scale(plan, slices, options.decode_rate, options.image_kilobytes * 1e3, options.write_rate * 1e6)
        for plan, slices in plans
    ]
    print(json.dumps(rows, indent=2) if options.json else table([_row(row) for row in rows]))
    return 0


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    times = f" x {row['slices']}" if row["slices"] > 1 else ""
    return {
        "slice": row["topology"] + times,
        "chips": f"{row['chips']:,}",
        "batch": f"{row['batch_size']:,}",
        "a chip": f"{row['batch_per_chip']:g}",
        "memory, GiB": f"{row['memory_gib']:.1f} of {row['memory_capacity_gib']:.0f}",
        "step, ms": f"{row['step_seconds'] * 1e3:.1f}",
        "all-reduces": f"{row['all_reduces']}, {row['all_reduce_bytes'] / 1e6:.0f} MB",
        "ICI, ms": f"{row['all_reduce_seconds'] * 1e3:.2f}",
        "DCN, ms": f"{row['cross_slice_seconds'] * 1e3:.2f}",
        "efficiency": f"{row['efficiency']:.1%}",
        "images/s": f"{row['images_per_second']:,.0f}",
        "hours": f"{row['hours']:.3g}",
        "cores a chip": f"{row['decode_cores_per_chip']:.1f} of {row['host_cores_per_chip']:g}",
        "input, Gbit/s a chip": f"{row['input_bandwidth_per_chip'] * 8 / 1e9:.2f}",
        "checkpoint": f"{row['checkpoint_bytes'] / 1e6:.0f} MB, {row['checkpoint_seconds']:.1f} s",
    }


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path) as file:
            plan = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(plan, dict) or "checkpoint_bytes" not in plan:
        raise ValueError(f"{path} is not what train.py --dry_run=TOPOLOGY --json prints")
    return plan
