"""`bench detect`: a detector on one image at a time.

The peer is torchvision's network without what selects (NMS, ROIAlign), on crops of the same number: its compiled
operators are not to be had beside every build of PyTorch, and without them nobody runs it. So it is given less to do.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax import kernels
from eca_jax.bench import report as bench_report
from eca_jax.inference.detector import Detector
from eca_jax.models import create_model, preprocessing
from eca_jax.models.detection.detector import Detector as Network
from eca_jax.models.detection.rcnn import FasterRCNN
from eca_jax.weights.torch import verify_detection
from eca_jax.weights.torch.writer import import_torch


def measure(name: str, image_size: int, peer: bool, rounds: int) -> dict[str, float]:
    """Median seconds an image: "detector" from pixels to boxes, "network" without what selects, "torchvision" the same.

    Raises:
      ValueError: the model is no detector, or torchvision has none like it.
      ImportError: PyTorch or torchvision is not installed.
    """
    model = create_model(name)
    if not isinstance(model, Network):
        raise ValueError(f"{name} is no detector")
    variables: Any = kernels.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    detector = Detector(model, variables, dataclasses.replace(preprocessing(name), image_size=image_size))
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (image_size * 3 // 5, image_size, 3), np.uint8)  # fills its canvas once resized
    canvas = detector.place(picture).canvas[None]
    proposals = model.preset.rpn_after if isinstance(model, FasterRCNN) else 1
    found = model.preset.detections
    shapes = ((proposals, 7, 7, model.width), (found, 14, 14, model.width))
    crops = [rng.standard_normal(shape, np.float32) for shape in shapes]
    labels = np.arange(found) % model.num_classes
    network = kernels.jit(lambda v, *inputs: model.apply(v, *inputs, method=verify_detection.network))
    contestants: dict[str, Callable[[], Any]] = {
        "detector": lambda: detector(picture),
        "network": lambda: jax.block_until_ready(network(detector.variables, canvas, crops, labels)),
    }
    if peer:
        torch = import_torch("a comparison with PyTorch")
        module = verify_detection.original(model).eval()
        module = module.to(memory_format=torch.channels_last)  # its fast form on CPUs
        contestants["torchvision"] = lambda: verify_detection.torchs_network(module, canvas, crops, labels)
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for turn in range(rounds + 1):
        for contestant, call in contestants.items():
            start = time.perf_counter()
            call()
            if turn:  # the first compiles and warms up
                times[contestant].append(time.perf_counter() - start)
    return {contestant: statistics.median(values) for contestant, values in times.items()}


def run(name: str, image_size: int, peer: bool, rounds: int) -> bench_report.Report:
    """`measure` as a report."""
    seconds = measure(name, image_size, peer, rounds)
    machine = bench_report.machine()
    what = {
        "detector": "pixels to boxes",
        "network": "without what selects",
        "torchvision": "torchvision's, without what selects",
    }
    lines = [
        f"{name}, one image of a short side of {image_size} pixels, "
        f"{machine['device']}, {machine['cpu_cores']} CPU cores"
    ]
    lines += [f"{what[contestant]:40}{value:8.3f} s" for contestant, value in seconds.items()]
    if peer:
        lines.append(f"network over torchvision's: {seconds['torchvision'] / seconds['network']:.2f}x as fast")
    return bench_report.Report(seconds | {"machine": machine}, "\n".join(lines), {"seconds an image": seconds})
