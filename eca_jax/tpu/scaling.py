"""What a training step would cost on a slice, and on several, with its communication and its input.

From the plans of `tpu.plan`, which hold the compiler's estimate of one chip's work, and the published
figures of the chips and their networks. Nothing here is a measurement, except the decoding rate that the user gives.
"""

import math
from collections.abc import Mapping
from typing import Any

from eca_jax.tpu.estimate import GIB
from eca_jax.tpu.topology import Chip, parse_topology

# "about 1 us" a hop: "How to Scale Your Model", jax-ml.github.io/scaling-book/sharding.
HOP_SECONDS = 1e-6


def all_reduce_seconds(size: int, layout: tuple[int, ...], chip: Chip, count: int = 1) -> float:
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


def cross_slice_seconds(size: int, chips: int, slices: int, chip: Chip) -> float:
    """Time that `slices` slices of `chips` chips need on the data-centre network to sum `size` bytes.

    Within a slice every chip has summed its share, 1 / chips of the bytes; that much goes round a ring of slices. The
    network's latency, for which nothing is published, is left out.
    """
    return 2 * (size / chips) * (slices - 1) / slices / chip.dcn_bandwidth


def scale(
    plan: Mapping[str, Any], slices: int, decode_rate: float, image_bytes: float, write_rate: float
) -> dict[str, Any]:
    """One row of the report, as plain data: `plan` (see `plan.plan`) on `slices` slices, the same batch on each.

    Args:
      decode_rate: images a second and host core.
      image_bytes: of one encoded image.
      write_rate: bytes a second into the workdir.

    Raises:
      ValueError: a chip without published network figures, or a number that must be positive and is not.
    """
    if slices < 1 or min(decode_rate, image_bytes, write_rate) <= 0:
        raise ValueError("slices, decode rate, image size and write rate must be positive")
    chip, layout = parse_topology(plan["topology"])
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
        "memory_gib": plan["memory_bytes_per_device"]["total"] / GIB,
        "memory_capacity_gib": plan["memory_capacity_bytes_per_device"] / GIB,
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
