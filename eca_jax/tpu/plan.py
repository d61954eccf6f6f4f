"""The plan of a run: a recipe's real training step, compiled for a TPU slice on a machine without one."""

import time
from collections.abc import Mapping
from typing import Any

import jax

from eca_jax.tasks.task import Task, create_task
from eca_jax.tpu.estimate import GIB, Estimate, compile_program, in_words
from eca_jax.tpu.topology import Slice, parse_topology, tpu_slice
from eca_jax.training.program import Program, build

LAYERS_SHOWN = 15


def of_recipe(config: Mapping[str, Any], topology: str) -> dict[str, Any]:
    """`plan` of a recipe (see `eca_jax.default_config`). Nothing runs: a GPU or TPU of this host is left alone.

    The data are opened only where the task does not know its number of examples without them. Errors as `plan`.
    """
    jax.config.update("jax_platforms", "cpu")
    parse_topology(topology)  # before the data set is looked at
    task = create_task(config)
    return plan(task, config, topology, task.nominal_examples or task.train_examples)


def plan(task: Task, config: Mapping[str, Any], topology: str, num_examples: int) -> dict[str, Any]:
    """What training a task by a recipe on the slice `topology` takes, as plain data.

    All of it is of `Task.batch`, but for `other_batches`, a row for each of the others, and `fits`, which is of all.

    Args:
      num_examples: of the training set, for the length of an epoch.

    Raises:
      ValueError: no such topology, a config that does not fit it, or a step that does not fit the chip's memory.
      ImportError: libtpu is not installed.
    """
    slice_ = tpu_slice(topology)
    batch_size = config["batch_size"]
    steps_per_epoch = max(num_examples // batch_size, 1)
    program = build(task, config, slice_.mesh(), steps_per_epoch)
    estimate, compile_seconds = _compiled(slice_, program, program.batch)
    others = [_other(program, slice_, batch) for batch in program.other_batches]
    return {
        "model": task.name,
        "topology": slice_.name,
        "chips": slice_.chips,
        "devices": len(slice_.devices),
        "batch_size": batch_size,
        "batch_per_chip": batch_size / slice_.chips,
        "bn_group_size": config["bn_group_size"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(program.state.params)),
        "checkpoint_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.state)),
        "memory_bytes_per_device": {**estimate.memory, "total": estimate.memory_total},
        "memory_capacity_bytes_per_device": estimate.memory_capacity,
        "fits": estimate.memory_total <= estimate.memory_capacity and all(other["fits"] for other in others),
        "flops_per_device": estimate.flops,
        "bytes_accessed_per_device": estimate.bytes_accessed,
        "hbm_bytes_per_device": estimate.hbm_bytes,
        "bandwidth_floor_seconds": estimate.bandwidth_seconds,
        "matrix_floor_seconds": estimate.matrix_seconds,
        "all_reduces": len(estimate.all_reduces),
        "all_reduce_bytes": sum(estimate.all_reduces),
        "estimated_cycles": estimate.cycles,
        "estimated_step_seconds": estimate.seconds,
        "estimated_images_per_second": batch_size / estimate.seconds,
        "num_epochs": config["num_epochs"],
        "num_examples": num_examples,
        "estimated_hours": config["num_epochs"] * steps_per_epoch * estimate.seconds / 3600,
        "unestimated": estimate.unestimated,
        "unestimated_hbm_bytes": estimate.unestimated_bytes,
        "layers": [
            {"layer": layer, "cycles": cycles, "share": cycles / estimate.cycles} for layer, cycles in estimate.layers
        ],
        "other_batches": others,
        "compile_seconds": compile_seconds,
    }


def _compiled(slice_: Slice, program: Program, batch: Mapping[str, Any]) -> tuple[Estimate, float]:
    """The estimate of the step of a batch, and the seconds that it took to compile. Raises as `compile_program`."""
    start = time.monotonic()
    estimate = compile_program(slice_, program.train_step, program.state, batch)[1]
    return estimate, time.monotonic() - start


def _other(program: Program, slice_: Slice, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a batch of other shapes takes."""
    estimate, compile_seconds = _compiled(slice_, program, batch)
    return {
        "shapes": {key: array.shape for key, array in batch.items() if array.shape != program.batch[key].shape},
        "memory_bytes_per_device": estimate.memory_total,
        "fits": estimate.memory_total <= estimate.memory_capacity,
        "hbm_bytes_per_device": estimate.hbm_bytes,
        "all_reduces": len(estimate.all_reduces),
        "estimated_cycles": estimate.cycles,
        "estimated_step_seconds": estimate.seconds,
        "compile_seconds": compile_seconds,
    }


def describe(plan: Mapping[str, Any]) -> str:
    """`plan` for people to read."""
    memory = dict(plan["memory_bytes_per_device"])
    total = memory.pop("total")
    capacity = plan["memory_capacity_bytes_per_device"]
    per_device = "chip" if plan["devices"] == plan["chips"] else "core"
    group, examples = plan["bn_group_size"] or plan["batch_size"], plan["batch_size"] // plan["devices"]
    lines = [
        f"{plan['model']} on {plan['topology']}: {plan['chips']} chips, compiled in {plan['compile_seconds']:.0f} s",
        f"  batch           {plan['batch_size']} in all, {plan['batch_per_chip']:g} a chip",
        f"  parameters      {plan['parameters']:,}",
        f"  memory          {_gib(total)} of {_gib(capacity)} a {per_device}: "
        + ("fits" if plan["fits"] else "DOES NOT FIT"),
        *(f"    {kind:<13} {'-' if kind == 'aliased' else ' '}{_gib(size)}" for kind, size in memory.items()),
        f"  operations      {plan['flops_per_device'] / 1e9:,.0f} GFLOP a {per_device} and step",
        f"  memory traffic  {plan['hbm_bytes_per_device'] / 1e9:.1f} GB a {per_device} and step, as counted",
        f"  floors          {plan['bandwidth_floor_seconds'] * 1e3:.1f} ms by memory traffic, "
        f"{plan['matrix_floor_seconds'] * 1e3:.1f} ms by operations",
        f"  all-reduces     {plan['all_reduces']}, {plan['all_reduce_bytes'] / 1e6:.1f} MB"
        + _of_groups(group, examples, per_device),
        "The compiler's estimate, not a measurement; communication and waiting for data are not in it:",
        f"  step            {plan['estimated_step_seconds'] * 1e3:.1f} ms, "
        f"{plan['estimated_cycles'] / 1e6:.1f} million cycles",
        f"  speed           {plan['estimated_images_per_second']:,.0f} images/s",
        *map(_of_other, plan["other_batches"]),
        f"  training        {plan['estimated_hours']:.1f} hours for {plan['num_epochs']} epochs of "
        f"{plan['num_examples']:,} images",
        f"Dearest of {len(plan['layers'])} layers and passes (a fused operation counts for the layer of its result):",
        *(f"  {row['share']:6.1%}  {row['layer']}" for row in plan["layers"][:LAYERS_SHOWN]),
    ]
    if plan["unestimated"]:
        moved = f"{plan['unestimated_hbm_bytes'] / 1e9:.1f} GB of the traffic"
        lines.append(f"Without an estimate, {moved}: {in_words(plan['unestimated'])}")
    return "\n".join(lines)


def _of_groups(group: int, examples: int, per_device: str) -> str:
    """What may be better about BatchNorm groups of so many examples, where a device has `examples`."""
    if examples % group:
        return f"; a BatchNorm group of {group} spans {per_device}s that hold {examples}"
    several = f"; {examples // group} BatchNorm groups of {group} a {per_device}, of which one costs bottlenecks less"
    return several if examples > group else ""


def _of_other(other: Mapping[str, Any]) -> str:
    shapes = ", ".join(f"{key} {list(shape)}" for key, shape in other["shapes"].items())
    return (
        f"  other batches   {shapes}: {other['estimated_step_seconds'] * 1e3:.1f} ms, "
        f"{other['estimated_cycles'] / 1e6:.1f} million cycles; {_gib(other['memory_bytes_per_device'])}: "
        + ("fits" if other["fits"] else "DOES NOT FIT")
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
