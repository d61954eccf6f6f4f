"""GFLOP/s of every convolution of a model, in every form that `layers.lowering` could choose, and in PyTorch.

`python -m eca_jax.bench.conv [MODEL] [--batch_size 32] [--image_size 224]` prints a line for each shape and
direction (forward, input gradient, kernel gradient). The forms take
turns, best of several rounds. Alone, a form is judged without its surroundings, which XLA may fuse with it or compute
twice: measure the whole network too, with `python -m eca_jax bench`.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax.kernels import cpu as lowering_cpu
from eca_jax.kernels import lowering
from eca_jax.layers import conv
from eca_jax.models import create_model

DIRECTIONS = ("forward", "dx", "dkernel")
# x's shape, the kernel's, and the other arguments of conv2d, hashable
Shape = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[str, Any], ...]]


def convolutions(name: str, batch_size: int, image_size: int) -> Counter[Shape]:
    """The convolutions of a model, with the number of times each occurs."""
    found: Counter[Shape] = Counter()
    original = conv.conv2d

    def record(x, kernel, **options):
        found[x.shape, kernel.shape, tuple(sorted(options.items()))] += 1
        return original(x, kernel, **options)

    conv.conv2d = record
    try:
        images = jnp.zeros((batch_size, image_size, image_size, 3))
        jax.eval_shape(lambda: create_model(name).init(jax.random.key(0), images, train=False))
    finally:
        conv.conv2d = original
    return found


def forms(kernel_shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, Callable]:
    """The functions (x, kernel) -> y that may compute this convolution, by name."""
    stride, padding = options["stride"], ((options["padding"],) * 2,) * 2
    size, _, channels, features = kernel_shape

    def plain(x, kernel):
        with lowering.compile_for("tpu"):
            return lowering.conv2d(x, kernel, **options)

    result = {"conv2d": lambda x, kernel: lowering.conv2d(x, kernel, **options), "XLA": plain}
    if size == 3 and stride == options["groups"] == 1:
        result["Winograd"] = lambda x, kernel: lowering_cpu.winograd(x, kernel, padding)
    if channels == 1 and options["groups"] == features:
        result["shifted"] = lambda x, k: lowering_cpu.depthwise(x, k[:, :, 0], (stride, stride), padding)
    return result


def directed(form: Callable, direction: str) -> Callable:
    """(x, kernel, cotangent) -> the result in one direction, with no work for the others."""
    return {
        "forward": lambda x, kernel, g: form(x, kernel),
        "dx": lambda x, kernel, g: jax.vjp(lambda x: form(x, kernel), x)[1](g)[0],
        "dkernel": lambda x, kernel, g: jax.vjp(lambda kernel: form(x, kernel), kernel)[1](g)[0],
    }[direction]


def torch_forms(x: np.ndarray, kernel: np.ndarray, g: np.ndarray, options: dict[str, Any]) -> dict[str, Callable]:
    """PyTorch's operator in each direction, channels last."""
    import torch

    last = torch.channels_last
    x, g = (torch.from_numpy(v.transpose(0, 3, 1, 2).copy()).to(memory_format=last) for v in (x, g))
    kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).to(memory_format=last)
    pairs = [[options[key]] * 2 for key in ("stride", "padding")]
    rest = (None, *pairs, [1, 1], False, [0, 0], options["groups"])

    def backward(mask):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="eca_resnet50")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    for (x_shape, kernel_shape, items), count in convolutions(
        arguments.model, arguments.batch_size, arguments.image_size
    ).items():
        options = dict(items)
        candidates = forms(kernel_shape, options)
        out = jax.eval_shape(candidates["XLA"], jnp.zeros(x_shape), jnp.zeros(kernel_shape)).shape
        x, kernel, g = (random.standard_normal(s, np.float32) for s in (x_shape, kernel_shape, out))
        gflop = 2e-9 * np.prod(out) * np.prod(kernel_shape[:3])
        peer = torch_forms(x, kernel, g, options)
        inputs = jax.device_put((x, kernel, g))
        for direction in DIRECTIONS:
            contestants = {"PyTorch": peer[direction]}
            for name, form in candidates.items():
                program = jax.jit(directed(form, direction), compiler_options=lowering.compiler_options())
                contestants[name] = partial(program, *inputs)
            times = best_seconds(contestants, arguments.rounds)
            speeds = "  ".join(f"{name} {gflop / seconds:.0f}" for name, seconds in times.items())
            print(f"{count} x {x_shape} {kernel_shape} stride {options['stride']} {direction}: {speeds}", flush=True)


if __name__ == "__main__":
    main()
