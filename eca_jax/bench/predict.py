"""`bench predict`: how busy a stream of JPEG files keeps the devices of this machine."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax.bench import report as bench_report
from eca_jax.bench.data import photograph
from eca_jax.bench.programs import abstract_variables
from eca_jax.inference.predictor import Predictor
from eca_jax.models import create_model, preprocessing
from eca_jax.weights.card import Card
from eca_jax.weights.load import Weights

# Files of so many different sizes, over and over.
DISTINCT = 50


def photographs(count: int) -> list[bytes]:
    """JPEG files from 200x150 to 1000x750 pixels, some upright."""
    random = np.random.default_rng(0)
    files = []
    for index in range(min(count, DISTINCT)):
        width = int(random.integers(200, 1001))
        width, height = (width, width * 3 // 4) if index % 3 else (width * 3 // 4, width)
        files.append(photograph(random, width, height))
    return [files[index % len(files)] for index in range(count)]


class Watched:
    """A compiled program that notes when the devices were at work on it."""

    def __init__(self, program: Any):
        self._program = program
        self._watcher = ThreadPoolExecutor(1)
        self.busy = self._last = 0.0

    def __call__(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = self._program(*arguments)
        self._watcher.submit(self._note, started, result)
        return result

    def _note(self, started: float, result: Any) -> None:
        jax.block_until_ready(result)
        now = time.perf_counter()
        self.busy += now - max(started, self._last)
        self._last = now

    def finish(self) -> None:
        self._watcher.shutdown()


def measure(name: str, count: int, batch_size: int, dtype: Any) -> dict[str, float]:
    """Streams `count` files through a model with zero weights, warm.

    Returns:
      "busy": share of the time, from the first file to the last result, in which the devices had a batch to work on;
      "images_per_second", and "images_per_second_alone": with the pixels ready and nothing to decode.
    """
    model = create_model(name, dtype=dtype)
    how = preprocessing(name)
    shapes = abstract_variables(model, how.image_size)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    predictor = Predictor(Weights(Card(name, {}, how), model, variables), batch_sizes=(batch_size,))
    ((key, program),) = predictor.programs.items()
    pixels = np.zeros((batch_size, how.image_size, how.image_size, 3), np.uint8)

    def seconds_alone() -> float:
        start = time.perf_counter()
        jax.block_until_ready(program(predictor.variables, jax.device_put(pixels, predictor.sharding)))
        return time.perf_counter() - start

    files = photographs(count)
    list(predictor.stream(files[:batch_size]))
    alone = [seconds_alone() for _ in range(5)]
    watched = predictor.programs[key] = Watched(program)
    start = time.perf_counter()
    for _ in predictor.stream(files):
        pass
    elapsed = time.perf_counter() - start
    watched.finish()
    return {
        "busy": watched.busy / elapsed,
        "images_per_second": count / elapsed,
        "images_per_second_alone": batch_size / statistics.median(alone),
    }


def run(name: str, images: int, batch_size: int, dtype: Any) -> bench_report.Report:
    """`measure` as a report."""
    figures = measure(name, images, batch_size, jnp.dtype(dtype))
    machine = bench_report.machine()
    text = (
        f"{name} on {images} JPEG files of mixed sizes, batches of {batch_size}, "
        f"{machine['device']}, {machine['cpu_cores']} CPU cores\n"
        f"the devices were busy {figures['busy']:.1%} of the time: {figures['images_per_second']:.1f} images/s, "
        f"{figures['images_per_second_alone']:.1f} where nothing is decoded"
    )
    speeds = {"stream": figures["images_per_second"], "nothing decoded": figures["images_per_second_alone"]}
    return bench_report.Report(figures | {"machine": machine}, text, {"images/s": speeds})
