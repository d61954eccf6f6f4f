"""`bench attention`: what each attention costs in one network, measured here or counted by the TPU compiler.

Measured, an attention and the plain network take turns in every round, and what is said is the median over the rounds
of their ratio: a slow moment of the machine falls on both. With a topology nothing runs: the TPU compiler compiles the
training step, and its HBM bytes and cycles are compared.
"""

import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.bench import report as bench_report
from eca_jax.bench.device import images_and_labels, measure, of_module, speeds
from eca_jax.bench.tpu import compile_on, compile_training
from eca_jax.layers import ChannelGate, list_attentions
from eca_jax.layers.attention import resolve_attention
from eca_jax.models import accepts, create_model, list_models
from eca_jax.tpu.topology import tpu_slice

KINDS = ("step", "infer")
PLAIN = "plain"
# Of the compiler's estimate.
_COUNTS = ("hbm_bytes", "operand_bytes", "cycles")
Progress = Callable[[str], None]


def pooled_gates() -> list[str]:
    """Names of the attentions that see only channels' means, which fold."""
    specs = {name: resolve_attention(name) for name in list_attentions()}
    return [name for name, spec in specs.items() if spec and issubclass(spec.build, ChannelGate)]


def networks(
    model: str, attentions: Sequence[str], dtype: Any, stage_sizes: Sequence[int] | None, **overrides: Any
) -> dict[str, nn.Module]:
    """{name: network} of the plain one and of those with each attention.

    A network that is registered with the attention, "a2_resnet50", has it in its authors' places; any other, and one of
    other `stage_sizes`, in every block.

    Raises:
      ValueError: unknown model or attention, or `stage_sizes` for a model without.
    """
    registered = list_models() if stage_sizes is None else []
    if stage_sizes is not None:
        if not accepts(model, "stage_sizes"):
            raise ValueError(f"{model} has no stage_sizes")
        overrides["stage_sizes"] = tuple(stage_sizes)
    built = {PLAIN: create_model(model, dtype=dtype, attention=None, **overrides)}
    for name in attentions:
        if (own := f"{name}_{model}") in registered:
            built[name] = create_model(own, dtype=dtype, **overrides)
        else:
            built[name] = create_model(model, dtype=dtype, attention=name, **overrides)
    return built


def run(
    model: str,
    attentions: Sequence[str],
    batch_size: int,
    image_size: int,
    *,
    stage_sizes: Sequence[int] | None = None,
    kinds: Sequence[str] = KINDS,
    rounds: int = 5,
    seconds: float = 2.0,
    progress: Progress = lambda line: None,
) -> bench_report.Report:
    """Images a second of training steps and of inference with each attention, and over the plain network's.

    Args:
      attentions: names; `list_attentions()` has them.
      stage_sizes: of a shorter network of the same blocks.
      kinds: which of `KINDS` to measure.
      seconds: of one contestant's turn, which is one pass at least.
      progress: is told each ratio, one line.

    Raises:
      ValueError: as `networks` does.
    """
    dtype = jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32
    built = networks(model, attentions, dtype, stage_sizes)
    images, labels = images_and_labels(batch_size, image_size)
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in attentions}
    for kind in kinds:
        plain = of_module(kind, built[PLAIN], images, labels)
        for name in attentions:
            times = measure({PLAIN: plain, name: of_module(kind, built[name], images, labels)}, rounds, seconds)
            ratios = [ours / theirs for ours, theirs in zip(times[PLAIN], times[name], strict=True)]
            spread = {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
            results[name][kind] = {"images_per_second": speeds(times[name], batch_size)["median"], **spread}
            progress(f"{kind}: {name} {spread['ratio']:.3f} of plain")
    machine = bench_report.machine()
    result = {
        "machine": machine,
        "model": model,
        "stage_sizes": stage_sizes,
        "batch_size": batch_size,
        "image_size": image_size,
        "dtype": jnp.dtype(dtype).name,
        "attentions": results,
    }
    words = {"step": "training", "infer": "inference"}
    rows = []
    for name, found in results.items():
        row = {"attention": name}
        for kind, figures in found.items():
            row[f"{words[kind]} images/s"] = f"{figures['images_per_second']:.2f}"
            row[f"{words[kind]}, plain = 1"] = f"{figures['ratio']:.3f}"
            row[f"{words[kind]}: lowest - highest"] = f"{figures['ratio_low']:.3f} - {figures['ratio_high']:.3f}"
        rows.append(row)
    title = (
        f"{_network(model, stage_sizes)}, batch {batch_size}, {image_size} pixels, {result['dtype']}, "
        f"on {machine['device']}, {machine['cpu_cores']} CPU cores"
    )
    bars = {
        f"{words[kind]}, plain = 1": {
            name: tuple(found[kind][key] for key in ("ratio_low", "ratio", "ratio_high"))
            for name, found in results.items()
        }
        for kind in kinds
    }
    return bench_report.Report(result, f"{title}\n\n{bench_report.table(rows)}", bars)


def run_tpu(
    model: str,
    attentions: Sequence[str],
    topology: str,
    batch_per_chip: int,
    image_size: int,
    *,
    stage_sizes: Sequence[int] | None = None,
    progress: Progress = lambda line: None,
) -> bench_report.Report:
    """HBM bytes and cycles of the training step with each attention, bfloat16, over the plain network's.

    Of HBM bytes a part is where the compiler placed a map and when it fetched it, which any change of a network moves:
    "read and written" counts operands and results wherever they lie.

    Raises:
      ValueError: as `networks` does, or an unknown topology.
    """
    jax.config.update("jax_platforms", "cpu")
    slice_ = tpu_slice(topology)
    group = batch_per_chip // slice_.chip.devices
    built = networks(model, attentions, jnp.bfloat16, stage_sizes, bn_group_size=group)
    results: dict[str, dict[str, Any]] = {}
    # The compiler gives no memory back, so each compilation has a process of its own.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        for name, network in built.items():
            found = processes.submit(compile_on, slice_.name, compile_training, network, batch_per_chip, image_size)
            estimate = found.result()
            results[name] = {key: getattr(estimate, key) for key in _COUNTS}
            of = f"{estimate.hbm_bytes / 1e9:.3f} GB of HBM traffic, {estimate.operand_bytes / 1e9:.3f} GB in all"
            progress(f"{name} compiled, {of}, {estimate.cycles / 1e6:.2f} million cycles")
    plain = results[PLAIN]
    for figures in results.values():
        figures |= {f"{key}_ratio": figures[key] / plain[key] for key in _COUNTS}
    result = {
        "topology": slice_.name,
        "model": model,
        "stage_sizes": stage_sizes,
        "batch_per_chip": batch_per_chip,
        "image_size": image_size,
        "dtype": "bfloat16",
        "jax": jax.__version__,
        "attentions": results,
    }
    rows = [
        {
            "attention": name,
            "HBM GB": f"{figures['hbm_bytes'] / 1e9:.3f}",
            "over plain": _percent(figures["hbm_bytes_ratio"]),
            "read and written GB": f"{figures['operand_bytes'] / 1e9:.3f}",
            "GB over plain": _percent(figures["operand_bytes_ratio"]),
            "million cycles": f"{figures['cycles'] / 1e6:.2f}",
            "cycles over plain": _percent(figures["cycles_ratio"]),
        }
        for name, figures in results.items()
    ]
    title = (
        f"training step of {_network(model, stage_sizes)}, {batch_per_chip} images a chip of {image_size} pixels, "
        f"bfloat16, {slice_.name}; by the TPU compiler"
    )
    bars = {"HBM bytes over plain": {name: figures["hbm_bytes_ratio"] for name, figures in results.items()}}
    return bench_report.Report(result, f"{title}\n\n{bench_report.table(rows)}", bars)


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.2f} %"


def _network(model: str, stage_sizes: Sequence[int] | None) -> str:
    return f"{model} of {tuple(stage_sizes)} blocks" if stage_sizes is not None else model
