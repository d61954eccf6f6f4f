"""Memory over a long run of the input pipeline: what a step leaves behind shows after ten thousand."""

import gc
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from eca_jax import sharding
from eca_jax.bench import report as bench_report
from eca_jax.data import load_source, prefetch_to_device, train_batches

_BATCH = 8
_IMAGE_SIZE = 32
_EXAMPLES = 512

# Shares of the run at which memory is looked at; the part before the first fills caches, arenas and threads.
_SAMPLES = 10


def measure(steps: int = 10_000, stored: str = "folder", augment: str = "rand-m7-mstd0.5-inc1") -> dict[str, Any]:
    """Runs `steps` batches of 8 small JPEGs through decoding, augmentation, the device and a small computation.

    Args:
      steps: at least 100.
      stored: "folder", "tfrecord" or "array_record", as for `eca_jax.bench.data.measure`.
      augment: see `eca_jax.data.train_batches`.

    Returns:
      dict: "steps", "memory_mib" (resident memory after each tenth of the run), "growth" (the last over the first, less
      one) and "steps_per_second".

    Raises:
      ValueError: too few steps.
    """
    if steps < 100:
        raise ValueError(f"steps must be at least 100, not {steps}")
    with tempfile.TemporaryDirectory(prefix="eca_jax_bench_") as folder:
        _write_images(Path(folder))
        if stored == "folder":
            source = load_source("folder", folder)
        else:
            from eca_jax.data.runtime import tensorflow

            tensorflow()  # before TFDS imports it, and loudly
            from eca_jax.bench.photographs import write_records
            from eca_jax.data.sources.records import record_source

            source = record_source(write_records(Path(folder), stored), splits=("train",))
        batches = train_batches(source, batch_size=_BATCH, image_size=_IMAGE_SIZE, seed=0, augment=augment)
        work = jax.jit(lambda total, batch: total + batch["image"].astype("float32").mean() * batch["mask"].sum())
        total: Any = np.float32(0)
        memory, started = [], time.monotonic()
        for step, batch in enumerate(prefetch_to_device(batches, sharding.split(sharding.data_mesh())), 1):
            total = work(total, batch)
            if step % (steps // _SAMPLES) == 0:
                total.block_until_ready()
                gc.collect()
                memory.append(_resident_mib())
            if step == steps:
                break
        seconds = time.monotonic() - started
    return {
        "steps": steps,
        "stored": stored,
        "memory_mib": memory,
        "growth": memory[-1] / memory[0] - 1,
        "steps_per_second": steps / seconds,
    }


def run(steps: int, stored: str, augment: str) -> bench_report.Report:
    """`measure` as a report."""
    measured = measure(steps, stored, augment)
    machine = bench_report.machine()
    rows = [
        {"after steps": f"{(number + 1) * (steps // _SAMPLES):,}", "resident MiB": f"{mib:.1f}"}
        for number, mib in enumerate(measured["memory_mib"])
    ]
    text = (
        f"batches of {_BATCH} from {stored}, {machine['device']}, {machine['cpu_cores']} CPU cores\n\n"
        f"{bench_report.table(rows)}\n\n{measured['growth']:+.2%} from the first tenth to the last, "
        f"{measured['steps_per_second']:.0f} steps/s"
    )
    bars = {"resident MiB": {row["after steps"]: float(row["resident MiB"]) for row in rows}}
    return bench_report.Report({**measured, "machine": machine}, text, bars)


def _write_images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (root / name).mkdir(parents=True)
    for index in range(_EXAMPLES):
        height, width = rng.integers(32, 96, 2)
        encoded = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(encoded, "jpeg")
        (root / "train" / "ab"[index % 2] / f"{index}.JPEG").write_bytes(encoded.getvalue())
    for name in "ab":
        (root / "val" / name / "0.JPEG").write_bytes(encoded.getvalue())


def _resident_mib() -> float:
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1024
