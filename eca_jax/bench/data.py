"""Speed of the training input pipeline, with torchvision's `DataLoader` beside it on the same files and cores."""

import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eca_jax.bench import report as bench_report

_BATCH = 64
_IMAGE_SIZE = 224


def measure(images: int = 512, workers: int = 2, seconds: float = 5.0, rounds: int = 5) -> dict[str, Any]:
    """Measures training batches (random-resized-crop to 224, flip) from JPEGs of 500x375 and ImageNet's 110 KB.

    The two pipelines take turns, `rounds` times `seconds` each, both warm. The peer returns uint8 tensors, as ours
    does: normalisation on the host, which its usual recipe adds, is left out in its favour.

    Args:
      images: files to make (in a temporary directory).
      workers: decoding threads of ours, worker processes of the peer's.
      seconds: length of one measurement.
      rounds: measurements of each.

    Returns:
      dict: "images_per_second" and "peer_images_per_second" (medians; the peer's is None without torchvision),
      "speedup" (their ratio or None), "rounds" and "peer_rounds" (every measurement), "workers",
      "kilobytes_per_image".
    """
    with tempfile.TemporaryDirectory(prefix="eca_jax_bench_") as folder:
        kilobytes = write_images(Path(folder), images)
        ours, peer = _ours(folder, workers), _peer(folder, workers)
        ours_rounds, peer_rounds = [], []
        for _ in range(rounds):
            ours_rounds.append(_images_per_second(ours, seconds))
            if peer is not None:
                peer_rounds.append(_images_per_second(peer, seconds))
    speed = statistics.median(ours_rounds)
    peer_speed = statistics.median(peer_rounds) if peer_rounds else None
    return {
        "images_per_second": speed,
        "peer_images_per_second": peer_speed,
        "speedup": speed / peer_speed if peer_speed else None,
        "rounds": ours_rounds,
        "peer_rounds": peer_rounds,
        "workers": workers,
        "kilobytes_per_image": kilobytes,
    }


def run(images: int, workers: int, seconds: float, rounds: int) -> bench_report.Report:
    """`measure` as a report."""
    measured = measure(images, workers, seconds, rounds)
    sides = {
        "eca_jax.data": (measured["rounds"], measured["images_per_second"]),
        "torchvision DataLoader": (measured["peer_rounds"], measured["peer_images_per_second"]),
    }
    speeds = {
        name: (min(all_rounds), middle, max(all_rounds)) for name, (all_rounds, middle) in sides.items() if all_rounds
    }
    rows = [
        {"pipeline": name, "images/s": f"{middle:.0f}", "slowest - fastest": f"{low:.0f} - {high:.0f}"}
        for name, (low, middle, high) in speeds.items()
    ]
    machine = bench_report.machine()
    text = (
        f"training batches from JPEGs of {measured['kilobytes_per_image']:.0f} KB, {workers} workers, "
        f"{machine['device']}, {machine['cpu_cores']} CPU cores\n\n{bench_report.table(rows)}"
    )
    return bench_report.Report({**measured, "machine": machine}, text, {"images/s": speeds})


def photograph(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG that decodes like a photograph: smooth colour, texture and sensor noise, at quality 90.

    At 500x375 pixels it has about ImageNet's mean of 110 KB.
    """

    def layer(columns: int, rows: int) -> np.ndarray:
        pixels = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), np.uint8))
        return np.asarray(pixels.resize((width, height), Image.Resampling.BICUBIC), np.float32)

    pixels = 0.72 * layer(32, 24) + 0.28 * layer(250, 188) + rng.normal(0, 8, (height, width, 1))
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "jpeg", quality=90)
    return encoded.getvalue()


def write_images(root: Path, count: int) -> float:
    """Writes a folder tree of JPEGs of 500x375 pixels, 64 different ones; returns their mean size in KB."""
    rng = np.random.default_rng(0)
    files = [photograph(rng, 500, 375) for _ in range(min(count, 64))]
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0.JPEG").write_bytes(files[0])
    for index in range(count):
        (root / "train" / "ab"[index % 2] / f"{index}.JPEG").write_bytes(files[index % len(files)])
    return sum(map(len, files)) / len(files) / 1000


def _images_per_second(batches: Iterator[Any], seconds: float) -> float:
    """Rate over about `seconds`, after what was decoded in the meantime has been used up."""
    for _ in range(8):
        next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        next(batches)
        count += _BATCH
    return count / elapsed


def _ours(folder: str, workers: int) -> Iterator[Any]:
    from eca_jax.data import load_source, train_batches

    source = load_source("folder", folder)
    return train_batches(source, batch_size=_BATCH, image_size=_IMAGE_SIZE, seed=0, num_workers=workers)


def _peer(folder: str, workers: int) -> Iterator[Any] | None:
    """Endless batches of torchvision's own pipeline; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    from eca_jax.weights.torch.peer import import_torchvision

    try:
        import_torchvision()
    except ImportError:
        return None

    def batches() -> Iterator[Any]:
        # Fresh interpreters: forking a process that runs TensorFlow's threads can hang.
        loader = torch.utils.data.DataLoader(
            _PeerImages(folder),
            batch_size=_BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers > 0 else None,
        )
        while True:
            yield from loader

    return batches()


class _PeerImages:
    """torchvision's ImageFolder with the standard training transforms, built anew in each worker process."""

    def __init__(self, folder: str):
        self._folder = folder
        self._dataset = self._build()

    def _build(self) -> Any:
        from eca_jax.weights.torch.peer import import_torchvision

        torchvision = import_torchvision()
        transforms = torchvision.transforms
        steps = [
            transforms.RandomResizedCrop(_IMAGE_SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
        return torchvision.datasets.ImageFolder(f"{self._folder}/train", transforms.Compose(steps))

    def __getstate__(self) -> str:
        return self._folder

    def __setstate__(self, folder: str) -> None:
        self._folder = folder
        self._dataset = self._build()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]
