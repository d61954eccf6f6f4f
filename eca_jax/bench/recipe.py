"""`bench recipe`: the whole training step of a recipe on this machine, with its loss, optimiser and averages."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from eca_jax.bench import report as bench_report
from eca_jax.sharding import data_mesh
from eca_jax.tasks.task import create_task
from eca_jax.training.program import build

# For schedules that go by the epoch; the figures do not depend on it.
_STEPS_PER_EPOCH = 1000


def measure(config: Mapping[str, Any], seconds: float = 2.0, rounds: int = 5) -> dict[str, Any]:
    """Measures steps of a recipe, on one batch of random pixels that stays on the devices; no data are needed.

    Args:
      config: see `eca_jax.default_config`.
      seconds: least length of a measurement, of at least one step.
      rounds: measurements, after one step that is not timed.

    Returns:
      dict: "images_per_second" (median), "rounds" (all of them), "step_ms", "compile_seconds", "gib" (arguments,
      temporaries and code on one device), "batch_size".
    """
    task = create_task(config)
    program = build(task, config, data_mesh(), _STEPS_PER_EPOCH)
    rng = np.random.default_rng(0)
    batch = {key: jax.device_put(_filled(spec, rng), spec.sharding) for key, spec in program.batch.items()}
    started = time.perf_counter()
    step = program.train_step.lower(program.state, program.batch).compile()
    compiled = time.perf_counter() - started
    state, _ = step(program.init(), batch)
    rates = []
    for _ in range(rounds):
        jax.block_until_ready(state)
        started, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - started < seconds:
            state, sums = step(state, batch)
            float(sums["count"])  # as training does, which reads the metrics
            count += 1
        jax.block_until_ready(state)
        rates.append(count * config["batch_size"] / (time.perf_counter() - started))
    rate = statistics.median(rates)
    memory: Any = step.memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return {
        "images_per_second": rate,
        "rounds": rates,
        "step_ms": config["batch_size"] / rate * 1000,
        "compile_seconds": compiled,
        "gib": used / 2**30,
        "batch_size": config["batch_size"],
    }


def run(name: str, config: Mapping[str, Any], seconds: float, rounds: int) -> bench_report.Report:
    """`measure` as a report."""
    measured, machine = measure(config, seconds, rounds), bench_report.machine()
    low, high = min(measured["rounds"]), max(measured["rounds"])
    row = {
        "recipe": name,
        "batch": str(measured["batch_size"]),
        "images/s": f"{measured['images_per_second']:.1f}",
        "slowest - fastest": f"{low:.1f} - {high:.1f}",
        "ms a step": f"{measured['step_ms']:.1f}",
        "GiB": f"{measured['gib']:.2f}",
    }
    text = (
        f"{machine['devices']} x {machine['device']}, JAX {machine['jax']}; compiled in "
        f"{measured['compile_seconds']:.1f} s\n\n{bench_report.table([row])}"
    )
    return bench_report.Report(
        {**measured, "machine": machine}, text, {"images/s": {name: (low, measured["images_per_second"], high)}}
    )


def _filled(spec: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    """Random pixels; the first class for labels; every row counts."""
    if spec.dtype == np.uint8:
        return rng.integers(0, 256, spec.shape, np.uint8)
    return np.ones(spec.shape, spec.dtype) if spec.dtype.kind == "f" else np.zeros(spec.shape, spec.dtype)
