"""`bench detect`: a detector on one image at a time, from pixels to boxes and masks, beside torchvision's.

The contestants have the same weights and run in turns in one process. Where torchvision's compiled operators do not
load, what takes part is its network alone, without what selects (NMS, ROIAlign, pasting), on as many crops: less work.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax import kernels
from eca_jax.bench import device
from eca_jax.bench import report as bench_report
from eca_jax.inference.detector import Detector
from eca_jax.models import create_model, preprocessing
from eca_jax.models.detection.detector import Detector as Network
from eca_jax.models.detection.rcnn import FasterRCNN
from eca_jax.weights.torch import verify_detection
from eca_jax.weights.torch.state_dict import to_torch
from eca_jax.weights.torch.verify import as_torch, load_original
from eca_jax.weights.torch.writer import import_torch

DETECTOR, NETWORK = "detector", "its network"


def measure(name: str, image_size: int, peer: bool, rounds: int, **options: Any) -> dict[str, list[float]]:
    """Seconds an image of every contestant, a figure a round.

    Args:
      name, **options: of the model, as for `create_model`.
      image_size: the short side, in pixels; the image fills its canvas.
      peer: whether torchvision takes part.

    Raises:
      ValueError: the model is no detector, or torchvision has none like it.
      ImportError: PyTorch or torchvision is not installed.
    """
    model = create_model(name, **options)
    if not isinstance(model, Network):
        raise ValueError(f"{name} is no detector")
    detector = Detector(model, _weights(model), dataclasses.replace(preprocessing(name), image_size=image_size))
    picture = np.random.default_rng(0).integers(0, 256, (image_size * 3 // 5, image_size, 3), np.uint8)
    calls: dict[str, Callable[[], Any]] = {DETECTOR: lambda: detector(picture)}
    inputs = _inputs(detector, picture)
    network = kernels.jit(lambda v, *inputs: model.apply(v, *inputs, method=verify_detection.network))
    calls[NETWORK] = lambda: jax.block_until_ready(network(detector.variables, *inputs))
    if peer:
        calls |= _torchvisions(name, options, detector, picture, inputs)
    return device.measure({contestant: _repeated(call) for contestant, call in calls.items()}, rounds, 0.0)


def _repeated(call: Callable[[], Any]) -> Callable[[int], None]:
    def passes(count: int) -> None:
        for _ in range(count):
            call()

    return passes


def _weights(model: Network) -> Any:
    """Random weights that find boxes: quiet residual branches, sure classes; initial ones find nothing."""
    flat = flatten_dict(kernels.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    for path, value in flat.items():
        if path[-2:] == ("bn3", "scale"):
            flat[path] = 0.2 * value
        elif path[-2:] == ("cls_score", "kernel"):
            flat[path] = 6 * value
    return unflatten_dict(flat)


def _inputs(detector: Detector, picture: np.ndarray) -> tuple[Any, ...]:
    """Of `verify_detection.network`: the image, and as many crops as a detection of it takes."""
    model: Any = detector.model
    rng = np.random.default_rng(1)
    proposals = model.preset.rpn_after if isinstance(model, FasterRCNN) else 1
    found = model.preset.detections
    shapes = ((proposals, 7, 7, model.width), (found, 14, 14, model.width))
    crops = [rng.standard_normal(shape, np.float32) for shape in shapes]
    return detector.place(picture).canvas[None], crops, np.arange(found) % model.num_classes


def _torchvisions(
    name: str, options: dict[str, Any], detector: Detector, picture: np.ndarray, inputs: Sequence[Any]
) -> dict[str, Callable[[], Any]]:
    """torchvision's detector with the same weights, in both of its memory formats; or its network."""
    torch = import_torch("a comparison with PyTorch")
    tensors = as_torch(to_torch(detector.variables, name, **options))
    model: Any = detector.model
    sizes = {"min_size": detector.preprocessing.image_size, "max_size": max(detector.resized(*picture.shape[:2]))}
    pixels = torch.from_numpy(picture.transpose(2, 0, 1) / np.float32(255))
    contestants: dict[str, Callable[[], Any]] = {}

    def contestant(layout: Any) -> Callable[[], Any]:
        module = verify_detection.original(model, **sizes)
        load_original(module, tensors, "torchvision's detector")
        module = module.eval().to(memory_format=layout)

        def whole() -> Any:
            with torch.inference_mode():
                return module([pixels])

        return whole if compiled else lambda: verify_detection.torchs_network(module, *inputs)

    from torchvision import extension

    compiled = extension._has_ops()
    what = "torchvision" if compiled else "torchvision's network"
    for layout, suffix in ((torch.contiguous_format, ""), (torch.channels_last, ", channels_last")):
        contestants[what + suffix] = contestant(layout)
    return contestants


def run(name: str, image_size: int, peer: bool, rounds: int) -> bench_report.Report:
    """`measure` as a report."""
    times = measure(name, image_size, peer, rounds)
    seconds = {contestant: statistics.median(values) for contestant, values in times.items()}
    machine = bench_report.machine()
    lines = [
        f"{name}, one image of a short side of {image_size} pixels, float32, "
        f"{machine['device']}, {machine['cpu_cores']} CPU cores"
    ]
    lines += [
        f"{contestant:36}{seconds[contestant]:8.3f} s   ({min(values):.3f} to {max(values):.3f})"
        for contestant, values in times.items()
    ]
    rivals = {contestant: value for contestant, value in seconds.items() if contestant not in (DETECTOR, NETWORK)}
    if rivals:
        fastest = min(rivals, key=lambda contestant: rivals[contestant])
        ratios = [f"{ours} {rivals[fastest] / seconds[ours]:.2f}x" for ours in (DETECTOR, NETWORK)]
        lines.append(f"{' and '.join(ratios)} as fast as {fastest}")
    bars = {contestant: (min(values), seconds[contestant], max(values)) for contestant, values in times.items()}
    return bench_report.Report({"seconds": times, "machine": machine}, "\n".join(lines), {"seconds an image": bars})
