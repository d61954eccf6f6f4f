"""`scale-report`: what a training step would cost on a slice, and on several, with its communication and its input.

From the plans of `train.py --dry_run --json`, which hold the compiler's estimate of one chip's work, and the published
figures of the chips and their networks. Nothing here is a measurement, except the decoding rate that the user gives.
"""

import argparse
import json
import math
from collections.abc import Mapping
from typing import Any

from eca_jax.bench import report as bench_report
from eca_jax.tpu import estimate as tpu

# "about 1 us" a hop: "How to Scale Your Model", jax-ml.github.io/scaling-book/sharding.
HOP_SECONDS = 1e-6


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
    print(json.dumps(rows, indent=2) if options.json else bench_report.table([_row(row) for row in rows]))
    return 0


def all_reduce_seconds(size: int, layout: tuple[int, ...], chip: tpu.Chip, count: int = 1) -> float:
    """Time to sum `size` bytes over all chips of a torus, in `count` operations, at the links' full bandwidth.

    Every chip has to send 2 (N - 1) / N of the bytes (reduce-scatter, then all-gather), and does so over all its axes
    at once, in both directions of an axis that closes to a ring; on a line half of the links idle. To that comes the
    way of the first byte, there and back. ("How to Scale Your Model", part 3; Jain and Sabharwal 2010, on tori.)
    """
    rings = chip.rings(layout)
    links = sum(2 if ring else 1 for axis, ring in zip(layout, rings, strict=True) if axis > 1)
    if not links:
        return 0.0
    chips = math.prod(layout)
    hops = sum(axis // 2 if ring else axis - 1 for axis, ring in zip(layout, rings, strict=True))
    return 2 * size * (chips - 1) / chips / (links * chip.link_bandwidth) + count * 2 * hops * HOP_SECONDS


def cross_slice_seconds(size: int, chips: int, slices: int, chip: tpu.Chip) -> float:
    """Time that `slices` slices of `chips` chips need on the data-centre network to sum `size` bytes.

    Within a slice every chip has summed its share, 1 / chips of the bytes; that much goes round a ring of slices. The
    network's latency, for which nothing is published, is left out.
    """
    return 2 * (size / chips) * (slices - 1) / slices / chip.dcn_bandwidth


def scale(
    plan: Mapping[str, Any], slices: int, decode_rate: float, image_bytes: float, write_rate: float
) -> dict[str, Any]:
    """One row of the report, as plain data: `plan` (see `dry_run.plan`) on `slices` slices, the same batch on each.

    Args:
      decode_rate: images a second and host core.
      image_bytes: of one encoded image.
      write_rate: bytes a second into the workdir.

    Raises:
      ValueError: a chip without published network figures, or a number that must be positive and is not.
    """
    if slices < 1 or min(decode_rate, image_bytes, write_rate) <= 0:
        raise ValueError("slices, decode rate, image size and write rate must be positive")
    chip, layout = tpu.parse_topology(plan["topology"])
    if not chip.link_bandwidth:
        raise ValueError(f"no network figures are known for {chip.name}; known: v4, v5e, v5p, v6e")
    step = plan["estimated_step_seconds"]
    ici = all_reduce_seconds(plan["all_reduce_bytes"], layout, chip, plan["all_reduces"])
    dcn = cross_slice_seconds(plan["all_reduce_bytes"], plan["chips"], slices, chip)
    batch = plan["batch_size"] * slices
    speed = batch / (step + ici + dcn)
    speed_per_chip = speed / (plan["chips"] * slices)
    steps_per_epoch = max(plan["num_examples"] // batch, 1)
    return {
        "topology": plan["topology"],
        "slices": slices,
        "chips": plan["chips"] * slices,
        "batch_size": batch,
        "batch_per_chip": plan["batch_per_chip"],
        "memory_gib": plan["memory_bytes_per_device"]["total"] / tpu.GIB,
        "memory_capacity_gib": plan["memory_capacity_bytes_per_device"] / tpu.GIB,
        "all_reduces": plan["all_reduces"],
        "all_reduce_bytes": plan["all_reduce_bytes"],
        "step_seconds": step,
        "all_reduce_seconds": ici,
        "cross_slice_seconds": dcn,
        "efficiency": step / (step + ici + dcn),
        "images_per_second": speed,
        "hours": plan["num_epochs"] * steps_per_epoch * (step + ici + dcn) / 3600,
        "decode_cores_per_chip": speed_per_chip / decode_rate,
        "host_cores_per_chip": chip.host_cores,
        "input_bandwidth_per_chip": speed_per_chip * image_bytes,
        "checkpoint_bytes": plan["checkpoint_bytes"],
        "checkpoint_seconds": plan["checkpoint_bytes"] / write_rate,
    }


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
