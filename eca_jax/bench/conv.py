"""GFLOP/s of every convolution of a model, by XLA, in the form that a CPU takes, and in PyTorch.

For each shape and direction (forward, input gradient, kernel gradient) the forms take turns, best of several rounds.
Alone, a form is judged without its surroundings, which XLA may fuse with it or compute twice: measure the whole network
too, by `bench.device`.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax import kernels
from eca_jax.bench import report as bench_report
from eca_jax.kernels import cpu_conv
from eca_jax.kernels.cpu_conv import ConvForm
from eca_jax.kernels.xla_conv import Shape, Window
from eca_jax.models import create_model

DIRECTIONS = ("forward", "dx", "dkernel")
FORMS = {
    cpu_conv.MATMUL: "product",
    cpu_conv.DEPTHWISE: "shifted",
    cpu_conv.WINOGRAD: "Winograd",
    cpu_conv.STRIDED: "phases",
    cpu_conv.DIRECT: "XLA",
}


def convolutions(name: str, batch_size: int, image_size: int) -> Counter[kernels.Convolution]:
    """The convolutions of a model, with the number of times each occurs."""
    model = create_model(name)
    images = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    return Counter(kernels.convolutions(jax.make_jaxpr(model.apply)(variables, images).jaxpr))


def forms(x: Shape, kernel: Shape, window: Window) -> dict[str, ConvForm]:
    """The ways to compute this convolution, by name: XLA's own, and what the CPU takes where that is another."""
    return {FORMS[form]: form for form in (cpu_conv.DIRECT, cpu_conv.form_for(x, kernel, window))}


def directed(form: ConvForm, direction: str, window: Window) -> Callable:
    """(x, kernel, cotangent) -> the result in one direction, with no work for the others."""
    return {
        "forward": lambda x, kernel, g: form.forward(x, kernel, window),
        "dx": lambda x, kernel, g: form.input_gradient(g, kernel, window, x.shape),
        "dkernel": lambda x, kernel, g: form.kernel_gradient(x, g, window, kernel.shape),
    }[direction]


def torch_forms(x: np.ndarray, kernel: np.ndarray, g: np.ndarray, window: Window) -> dict[str, Callable]:
    """PyTorch's operator in each direction, channels last."""
    import torch

    last = torch.channels_last
    x, g = (torch.from_numpy(v.transpose(0, 3, 1, 2).copy()).to(memory_format=last) for v in (x, g))
    kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).to(memory_format=last)
    padding = [low for low, _ in window.padding]
    rest = (None, window.stride, padding, window.dilation, False, [0, 0], window.groups)

    def backward(mask: list[bool]) -> Callable[[], Any]:
        return lambda: torch.ops.aten.convolution_backward(g, x, kernel, *rest, mask)

    return {
        "forward": lambda: torch.ops.aten.convolution(x, kernel, *rest),
        "dx": backward([True, False, False]),
        "dkernel": backward([False, True, False]),
    }


def best_seconds(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The shortest time of each. They take turns of two runs, of which the second counts.

    The first finds PyTorch's threads still spinning: up to half the speed, for the one after it.
    """
    best = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, run in contestants.items():
            jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready(run())
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def run(
    name: str,
    batch_size: int,
    image_size: int,
    rounds: int,
    peer: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> bench_report.Report:
    """GFLOP/s of each convolution of a model, in each direction and form.

    Args:
      peer: whether PyTorch runs too.
      progress: is told each result as it comes, one line.

    Raises:
      ValueError: an unknown model.
    """
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for convolution, count in convolutions(name, batch_size, image_size).items():
        window = convolution.window
        x, kernel, g = (random.standard_normal(shape, np.float32) for shape in convolution[:3])
        peers = torch_forms(x, kernel, g, window) if peer else {}
        inputs = jax.device_put((x, kernel, g))
        for direction in DIRECTIONS:
            contestants: dict[str, Callable[[], Any]] = {"PyTorch": peers[direction]} if peer else {}
            for label, form in forms(convolution.x, convolution.kernel, window).items():
                contestants[label] = partial(kernels.jit(directed(form, direction, window)), *inputs)
            seconds = best_seconds(contestants, rounds)
            row = {
                "count": count,
                "x": convolution.x,
                "kernel": convolution.kernel,
                "stride": window.stride,
                "direction": direction,
                "gflops": {label: 2e-9 * convolution.multiply_adds / value for label, value in seconds.items()},
            }
            progress(describe(row))
            rows.append(row)
    machine = bench_report.machine()
    head = f"{name}, batch {batch_size}, {machine['device']}, {machine['cpu_cores']} CPU cores; GFLOP/s"
    result = {
        "model": name,
        "batch_size": batch_size,
        "image_size": image_size,
        "machine": machine,
        "convolutions": rows,
    }
    bars = {
        f"GFLOP/s, {direction}, fastest form": {
            "{count} x {x} {kernel}".format(**row): max(row["gflops"].values())
            for row in rows
            if row["direction"] == direction
        }
        for direction in DIRECTIONS
    }
    return bench_report.Report(result, "\n".join([head, *map(describe, rows)]), bars)


def describe(row: Mapping[str, Any]) -> str:
    """2 x (32, 56, 56, 64) (3, 3, 64, 64) stride (1, 1) forward: XLA 212  Winograd 390"""
    speeds = "  ".join(f"{label} {speed:.0f}" for label, speed in row["gflops"].items())
    return "{count} x {x} {kernel} stride {stride} {direction}: ".format(**row) + speeds
