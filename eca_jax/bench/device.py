"""`bench step` and `bench infer`: speed on this machine's CPU or GPU, beside a PyTorch peer.

All contestants run in one process on the same batches, warm, one after another in every round, so that a slow moment
of the machine falls on all of them. PyTorch gets its batches already normalised and in the layout it likes best; ours
are uint8 and normalised in the program, as in training.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eca_jax import kernels
from eca_jax.bench import report as bench_report
from eca_jax.bench.programs import inference, training
from eca_jax.models import create_model
from eca_jax.sharding import data_mesh

# Runs `count` passes and waits for the last.
Contestant = Callable[[int], None]


def images_and_labels(batch_size: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch_size, image_size, image_size, 3), np.uint8)
    return images, random.integers(0, 1000, batch_size, np.int32)


def ours(kind: str, name: str, dtype: Any, images: np.ndarray, labels: np.ndarray) -> Contestant:
    """One of our models on all devices of this machine; `kind` is "step" or "infer"."""
    return of_module(kind, create_model(name, dtype=dtype), images, labels)


def of_module(kind: str, model: nn.Module, images: np.ndarray, labels: np.ndarray) -> Contestant:
    """A network, as `ours`."""
    mesh = data_mesh()
    program = training(model, mesh, len(images), images.shape[1])
    split = program.batch["image"].sharding
    state = program.init()
    if kind == "step":
        examples = {"image": images, "label": labels, "mask": np.ones(len(images), np.float32)}
        batch = jax.device_put(examples, split)
        step = program.train_step.lower(program.state, program.batch).compile()

        def run_steps(count: int) -> None:
            nonlocal state
            for _ in range(count):
                state, sums = step(state, batch)
            jax.block_until_ready((state, sums))

        return run_steps

    on_device = jax.device_put(images, split)
    predict = kernels.jit(inference(model), rows=1).lower(state.variables, on_device).compile()

    def run_batches(count: int) -> None:
        for _ in range(count):
            logits = predict(state.variables, on_device)
        logits.block_until_ready()

    return run_batches


def peers(kind: str, name: str, dtype: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, Contestant]:
    """The same network in PyTorch: eager, channels_last and compiled; bfloat16 is autocast."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("the PyTorch peer needs PyTorch; install it with: pip install 'eca-jax[torch]'") from error
    from eca_jax.weights.torch import reference

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    forms: dict[str, tuple[Any, dict[str, str] | None]] = {
        "eager": (torch.contiguous_format, None),
        "channels_last": (torch.channels_last, None),
        "compiled channels_last": (torch.channels_last, {}),
    }
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, which JAX uses on a GPU as well
        forms["max-autotune channels_last"] = (torch.channels_last, {"mode": "max-autotune"})

    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255)).to(device)
    targets = torch.from_numpy(labels).long().to(device)
    half = dtype == jnp.bfloat16

    def contestant(layout: Any, compile_options: dict[str, str] | None) -> Contestant:
        network = reference.build(name).to(device).to(memory_format=layout).train(kind == "step")
        forward = network if compile_options is None else torch.compile(network, **compile_options)
        batch = pixels.to(memory_format=layout)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

        def autocast() -> Any:
            return torch.autocast(device, torch.bfloat16, enabled=half)

        def finish() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        def run_steps(count: int) -> None:
            for _ in range(count):
                optimizer.zero_grad(set_to_none=True)
                with autocast():
                    loss = torch.nn.functional.cross_entropy(forward(batch), targets)
                loss.backward()
                optimizer.step()
            finish()

        def run_batches(count: int) -> None:
            with torch.inference_mode(), autocast():
                for _ in range(count):
                    forward(batch)
            finish()

        return run_steps if kind == "step" else run_batches

    return {f"torch {form}": contestant(*arguments) for form, arguments in forms.items()}


def measure(contestants: dict[str, Contestant], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds a pass, for every contestant and round; the contestants take turns within a round.

    The first pass of a turn is not timed: it finds caches and the allocator's memory as another contestant left them.
    """
    passes = {}
    for name, run_passes in contestants.items():
        run_passes(2)  # compiles, allocates, tunes
        passes[name] = max(1, round(seconds / _seconds(run_passes, 1)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run_passes in contestants.items():
            run_passes(1)
            times[name].append(_seconds(run_passes, passes[name]) / passes[name])
    return times


def _seconds(run_passes: Contestant, count: int) -> float:
    start = time.perf_counter()
    run_passes(count)
    return time.perf_counter() - start


def speeds(times: Sequence[float], batch_size: int) -> dict[str, float]:
    """Images a second: the median over the rounds, the slowest and the fastest."""
    return {
        "median": batch_size / statistics.median(times),
        "low": batch_size / max(times),
        "high": batch_size / min(times),
    }


def run(
    kind: str,
    model: str,
    batch_sizes: Sequence[int],
    image_size: int = 224,
    dtype: Any = None,
    baseline: str | None = None,
    peer: bool = False,
    rounds: int = 5,
    seconds: float = 2.0,
) -> bench_report.Report:
    """Images a second of training steps ("step") or of inference ("infer"), for each batch size.

    Args:
      dtype: bfloat16 on a GPU and float32 elsewhere, where it is None.
      baseline: a second model of ours.
      peer: whether `model` runs in PyTorch too, in all its fast forms.
      seconds: of one contestant's turn, which is one pass at least.

    Raises:
      ValueError: an unknown model.
      ImportError: no PyTorch for the peer.
    """
    dtype = jnp.dtype(dtype or ("bfloat16" if jax.default_backend() == "gpu" else "float32"))
    names = [model] + ([baseline] if baseline else [])
    results = {}
    for batch_size in batch_sizes:
        images, labels = images_and_labels(batch_size, image_size)
        contestants = {name: ours(kind, name, dtype, images, labels) for name in names}
        if peer:
            contestants |= peers(kind, model, dtype, images, labels)
        times = measure(contestants, rounds, seconds)
        results[batch_size] = {name: speeds(values, batch_size) for name, values in times.items()}
    machine = bench_report.machine()
    result = {
        "kind": kind,
        "machine": machine,
        "model": model,
        "image_size": image_size,
        "dtype": dtype.name,
        "images_per_second": results,
    }
    what = "training" if kind == "step" else "inference"
    text = [f"{what} on {machine['device']}, {machine['cpu_cores']} CPU cores, {dtype.name}"]
    for batch_size, rows in results.items():
        mine = rows[model]["median"]
        text += ["", f"batch {batch_size}:", bench_report.table([
            {
                "network": name,
                "images/s": f"{row['median']:.2f}",
                "slowest - fastest": f"{row['low']:.2f} - {row['high']:.2f}",
                f"{model} over it": f"{mine / row['median']:.3f}",
            }
            for name, row in rows.items()
        ])]  # fmt: skip
    bars = {
        f"images/s, batch {batch_size}": {name: (r["low"], r["median"], r["high"]) for name, r in rows.items()}
        for batch_size, rows in results.items()
    }
    return bench_report.Report(result, "\n".join(text), bars)
