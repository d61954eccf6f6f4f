"""`bench tpu`: what attention costs on a TPU, by the TPU compiler's own estimate; needs libtpu, no TPU.

"million cycles" and their milliseconds are the compiler's estimate, which counts passes over feature maps. "HBM GB" is
counted in the scheduled program: what lies outside the chip, each operand of a program once. "GB accessed" is XLA's
own count, of every use of every operand wherever it lies. The two floors are the HBM bytes at the memory's bandwidth
and the operations at the matrix units' peak. What the compiler gives no estimate for is named below each table: a form
that moves work there only looks faster. The figures are the same on every machine, so differences of a tenth of a
percent are real differences between programs; how well they predict a TPU's clock is another matter.
"""

import multiprocessing
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax import kernels, sharding
from eca_jax.bench import report as bench_report
from eca_jax.bench.programs import abstract_variables, inference, training
from eca_jax.bench.stock import StockResNet
from eca_jax.models import create_model
from eca_jax.models.resnet import RELEASED_KERNEL_SIZES
from eca_jax.tpu.estimate import GIB, Estimate, compile_program, in_words
from eca_jax.tpu.topology import Slice, tpu_slice

PASSES = ("train", "infer")


def contestants(model: str, baseline: str, naive: bool, group_size: int) -> dict[str, nn.Module]:
    """The networks to compile, bfloat16: stock ones where `model` is a ResNet; with `naive` an ECA layer unfolded.

    That layer is in the stock network, or in ours where there is no stock one: the compiler took more than 24 GB for
    the step of our own ResNet-50 unfolded.
    """
    ours = {"dtype": jnp.bfloat16, "bn_group_size": group_size}
    networks: dict[str, nn.Module] = {}
    depth = re.fullmatch(r"(?:eca_)?resnet(\d+)", model)
    if depth:
        stock = StockResNet(int(depth[1]), dtype=jnp.bfloat16)
        networks["stock flax layers"] = stock
        if naive:
            kernel_sizes = RELEASED_KERNEL_SIZES[int(depth[1])]
            networks["stock flax layers + ECA layer"] = stock.clone(kernel_sizes=kernel_sizes)
    networks[baseline] = create_model(baseline, **ours)
    if naive and not depth:
        networks[f"{model}, not folded"] = create_model(model, fold=False, **ours)
    networks[model] = create_model(model, **ours)
    return networks


def compile_training(slice_: Slice, model: nn.Module, batch_per_chip: int, image_size: int) -> Estimate:
    """Compile the real training step of `model`: SGD with momentum and weight decay, uint8 images."""
    program = training(model, slice_.mesh(), batch_per_chip * slice_.chips, image_size)
    return compile_program(slice_, program.train_step, program.state, program.batch)[1]


def compile_inference(slice_: Slice, model: nn.Module, batch_per_chip: int, image_size: int) -> Estimate:
    """Compile uint8 images -> logits with running statistics."""
    mesh = slice_.mesh()
    split, replicated = sharding.split(mesh), sharding.replicated(mesh)
    images = jax.ShapeDtypeStruct((batch_per_chip * slice_.chips, image_size, image_size, 3), jnp.uint8)
    program = kernels.jit(inference(model), rows=1, in_shardings=(replicated, split), out_shardings=split)
    return compile_program(slice_, program, abstract_variables(model, image_size), images)[1]


def compile_on(topology: str, compile_pass: Callable[..., Estimate], *arguments: Any) -> Estimate:
    """`compile_pass(slice, *arguments)`, for a process of its own."""
    jax.config.update("jax_platforms", "cpu")  # nothing runs here: leave a GPU or TPU of this host alone
    return compile_pass(tpu_slice(topology), *arguments)


def run(
    model: str,
    baseline: str,
    topology: str,
    batch_per_chip: int,
    image_size: int,
    naive: bool = False,
    kinds: Sequence[str] = PASSES,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> bench_report.Report:
    """The estimates for `model`, `baseline` and what `contestants` adds, as ratios to `baseline`.

    Args:
      topology: such as v5e:4x4, v4:2x2x2, v6e-8.
      kinds: which of `PASSES` to compile.
      jobs: compilations at a time, each of about 5 GB.
      progress: is told each network that is compiled, one line.

    Raises:
      ValueError: an unknown model or topology.
    """
    jax.config.update("jax_platforms", "cpu")
    slice_ = tpu_slice(topology)
    networks = contestants(model, baseline, naive, batch_per_chip // slice_.chip.devices)
    passes = {"train": compile_training, "infer": compile_inference}
    # The compiler gives no memory back: ten compilations in one process held 21 GB.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        estimates = {
            (kind, name): processes.submit(compile_on, slice_.name, passes[kind], network, batch_per_chip, image_size)
            for kind in kinds
            for name, network in networks.items()
        }
        results: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in kinds}
        for (kind, name), estimate in estimates.items():
            results[kind][name] = _figures(estimate.result())
            progress(f"{kind}: {name} compiled, {results[kind][name]['cycles'] / 1e6:.2f} million cycles")
    result = {
        "topology": slice_.name,
        "batch_per_chip": batch_per_chip,
        "image_size": image_size,
        "dtype": "bfloat16",
        "jax": jax.__version__,
        "estimates": results,
    }
    text = [f"{slice_.name}, {batch_per_chip} images a chip, bfloat16; the TPU compiler's estimates"]
    for kind, rows in results.items():
        base = rows[baseline]["cycles"]
        text += ["", f"{kind}:", bench_report.table([
            {
                "network": name,
                "million cycles": f"{row['cycles'] / 1e6:.2f}",
                f"over {baseline}": f"{row['cycles'] / base:.4f}",
                "ms": f"{row['milliseconds']:.1f}",
                "GFLOP": f"{row['flops'] / 1e9:.0f}",
                "GB accessed": f"{row['bytes_accessed'] / 1e9:.2f}",
                "HBM GB": f"{row['hbm_bytes'] / 1e9:.2f}",
                "floors ms": f"{row['bandwidth_floor_milliseconds']:.1f}, {row['matrix_floor_milliseconds']:.1f}",
                "GiB memory": f"{row['memory'] / GIB:.2f}",
                "all-reduces": row["all_reduces"],
            }
            for name, row in rows.items()
        ])]  # fmt: skip
        text += [
            f"{name}: without an estimate, {row['unestimated_hbm_bytes'] / 1e9:.2f} GB: {in_words(row['unestimated'])}"
            for name, row in rows.items()
            if row["unestimated"]
        ]
    bars = {
        f"{kind}: million cycles (estimate)": {name: row["cycles"] / 1e6 for name, row in rows.items()}
        for kind, rows in results.items()
    }
    return bench_report.Report(result, "\n".join(text), bars)


def _figures(estimate: Estimate) -> dict[str, Any]:
    return {
        "cycles": estimate.cycles,
        "milliseconds": estimate.seconds * 1e3,
        "flops": estimate.flops,
        "bytes_accessed": estimate.bytes_accessed,
        "hbm_bytes": estimate.hbm_bytes,
        "bandwidth_floor_milliseconds": estimate.bandwidth_seconds * 1e3,
        "matrix_floor_milliseconds": estimate.matrix_seconds * 1e3,
        "unestimated": estimate.unestimated,
        "unestimated_hbm_bytes": estimate.unestimated_bytes,
        "memory": estimate.memory_total,
        "all_reduces": len(estimate.all_reduces),
        "all_reduce_bytes": sum(estimate.all_reduces),
    }
