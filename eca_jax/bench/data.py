"""Speed of the training input pipeline, with torchvision's `DataLoader` beside it on the same files and cores."""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eca_jax.bench import report as bench_report

_BATCH = 64
_IMAGE_SIZE = 224

# A part is measured over so many images at a time.
_PART_IMAGES = 32


def measure(
    images: int = 2048,
    workers: int = 2,
    seconds: float = 5.0,
    rounds: int = 5,
    interpolation: str = "bilinear",
    augment: str = "",
    stored: str = "folder",
) -> dict[str, Any]:
    """Measures training batches (random-resized-crop to 224, flip) from JPEGs of 500x375 and ImageNet's 110 KB.

    The two pipelines take turns, `rounds` times `seconds` each, both warm. The peer returns uint8 tensors, as ours
    does: normalisation on the host, which its usual recipe adds, is left out in its favour. CPU time is that of all
    threads and, of the peer, of its worker processes: unlike the rate, it hardly depends on what else the machine does.

    Args:
      images: files to make (in a temporary directory).
      workers: decoding threads of ours, worker processes of the peer's.
      seconds: length of one measurement.
      rounds: measurements of each.
      interpolation: "bilinear" or "bicubic".
      augment: see `eca_jax.data.train_batches`; the peer's transforms are timm's then, which knows the same string.
      stored: "folder"; "tfrecord" or "array_record" for ours, beside the peer's folder.

    Returns:
      dict: "images_per_second" and "cpu_ms" (of an image), medians, and the same with "peer_" (None without
      torchvision, or timm); "speedup" and "cpu_ratio", ours over the peer's (or None); "rounds", "peer_rounds",
      "cpu_rounds" and "peer_cpu_rounds" (every measurement); "parts": CPU ms an image of each part, alone in one
      thread; "workers"; "kilobytes_per_image".
    """
    with tempfile.TemporaryDirectory(prefix="eca_jax_bench_") as folder:
        kilobytes = write_images(Path(folder), images)
        sides = {"": _ours(folder, workers, interpolation, augment, stored)}
        peer = _peer(folder, workers, interpolation, augment)
        if peer is not None:
            sides["peer_"] = peer
        rates: dict[str, list[float]] = {"": [], "peer_": []}
        costs: dict[str, list[float]] = {"": [], "peer_": []}
        for _ in range(rounds):
            for side, batches in sides.items():
                rate, cost = _turn(batches, seconds)
                rates[side].append(rate)
                costs[side].append(cost)
        parts = _parts(Path(folder), interpolation, augment)
    result: dict[str, Any] = {}
    for side in rates:
        result[f"{side}images_per_second"] = statistics.median(rates[side]) if rates[side] else None
        result[f"{side}cpu_ms"] = statistics.median(costs[side]) if costs[side] else None
        result |= {f"{side}rounds": rates[side], f"{side}cpu_rounds": costs[side]}
    return result | {
        "speedup": result["images_per_second"] / result["peer_images_per_second"] if peer is not None else None,
        "cpu_ratio": result["cpu_ms"] / result["peer_cpu_ms"] if peer is not None else None,
        "parts": parts,
        "workers": workers,
        "kilobytes_per_image": kilobytes,
    }


def run(
    images: int,
    workers: int,
    seconds: float,
    rounds: int,
    interpolation: str = "bilinear",
    augment: str = "",
    stored: str = "folder",
) -> bench_report.Report:
    """`measure` as a report."""
    measured = measure(images, workers, seconds, rounds, interpolation, augment, stored)
    peer = "timm's transforms, DataLoader" if augment else "torchvision DataLoader"
    speeds, costs, rows = {}, {}, []
    for name, side in (("eca_jax.data", ""), (peer, "peer_")):
        if measured[f"{side}rounds"]:
            low, middle, high = speeds[name] = _spread(measured[f"{side}rounds"])
            _, cost, _ = costs[name] = _spread(measured[f"{side}cpu_rounds"])
            rows.append(
                {
                    "pipeline": name,
                    "images/s": f"{middle:.0f}",
                    "slowest - fastest": f"{low:.0f} - {high:.0f}",
                    "CPU ms an image": f"{cost:.2f}",
                }
            )
    parts = [
        {"part, alone in one thread": name, "CPU ms an image": f"{ms:.2f}"} for name, ms in measured["parts"].items()
    ]
    machine = bench_report.machine()
    text = (
        f"training batches from JPEGs of {measured['kilobytes_per_image']:.0f} KB, {workers} workers, "
        f"{machine['device']}, {machine['cpu_cores']} CPU cores\n\n{bench_report.table(rows)}\n\n"
        f"{bench_report.table(parts)}\n\n"
        f"a chip that trains 1,000 images/s keeps {measured['cpu_ms']:.1f} of such cores busy"
    )
    return bench_report.Report({**measured, "machine": machine}, text, {"images/s": speeds, "CPU ms an image": costs})


def _spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


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


def _turn(batches: Iterator[Any], seconds: float) -> tuple[float, float]:
    """Images per second and CPU ms an image over about `seconds`, after what was decoded before has been used up.

    What is decoded ahead is as much at the end as at the beginning; the CPU's clock stops when that is done.
    """
    for _ in range(8):
        next(batches)
    _idle()
    used, start, count = _cpu_seconds(), time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        next(batches)
        count += _BATCH
    _idle()
    return count / elapsed, (_cpu_seconds() - used) / count * 1000


def _idle() -> None:
    """Waits until this process and its children have nothing left to do."""
    used = -1.0
    while (now := _cpu_seconds()) - used > 0.02:
        used = now
        time.sleep(0.2)


def _cpu_seconds() -> float:
    """CPU time of this process's threads and, where /proc tells it, of its children."""
    total, parent, tick = time.process_time(), os.getpid(), os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent:
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def _parts(folder: Path, interpolation: str, augment: str) -> dict[str, float]:
    """CPU ms an image of what a training row takes, each part alone, in this thread."""
    from eca_jax.data.augment import HorizontalFlip, Moving, Operation, RandomResizedCrop, augmented, parse
    from eca_jax.data.decode import decode

    paths = sorted((folder / "train" / "a").iterdir())[:_PART_IMAGES]
    encoded = [path.read_bytes() for path in paths]
    decoded = [decode(content) for content in encoded]

    def through(operations: tuple[Operation, ...], images: list[Image.Image]) -> list[Image.Image]:
        return [augmented(image, operations, 0, 0, index) for index, image in enumerate(images)]

    crop = RandomResizedCrop(_IMAGE_SIZE, interpolation=interpolation)
    cropped = through((crop,), decoded)
    policy = parse(augment, Moving(interpolation, (124, 116, 104)))
    work: dict[str, Callable[[], Any]] = {
        "read the file": lambda: [path.read_bytes() for path in paths],
        "decode": lambda: [decode(content) for content in encoded],
        "crop and resize": lambda: through((crop,), decoded),
        "flip": lambda: through((HorizontalFlip(),), cropped),
        **({augment: lambda: through(policy, cropped)} if policy else {}),
        "to an array": lambda: [np.asarray(image) for image in cropped],
    }
    costs = {}
    for name, one in work.items():
        one()
        times = []
        for _ in range(5):
            start = time.process_time()
            one()
            times.append((time.process_time() - start) / len(paths) * 1000)
        costs[name] = statistics.median(times)
    return costs


def _ours(folder: str, workers: int, interpolation: str, augment: str, stored: str) -> Iterator[Any]:
    from eca_jax.data import load_source, train_batches
    from eca_jax.data.runtime import tensorflow

    if stored == "folder":
        source = load_source("folder", folder)
    else:
        tensorflow()  # before TFDS imports it, and loudly
        from eca_jax.bench.photographs import write_records
        from eca_jax.data.sources.records import record_source

        source = record_source(write_records(Path(folder), stored), splits=("train",))
    return train_batches(
        source,
        batch_size=_BATCH,
        image_size=_IMAGE_SIZE,
        seed=0,
        num_workers=workers,
        interpolation=interpolation,
        augment=augment,
    )


def _peer(folder: str, workers: int, interpolation: str, augment: str) -> Iterator[Any] | None:
    """Endless batches of torchvision's own pipeline, with timm's transforms for `augment`; None without them."""
    try:
        import torch

        from eca_jax.weights.torch.peer import import_timm, import_torchvision

        import_timm() if augment else import_torchvision()
    except ImportError:
        return None

    def batches() -> Iterator[Any]:
        # Fresh interpreters: forking a process that runs TensorFlow's threads can hang.
        loader = torch.utils.data.DataLoader(
            _PeerImages(folder, interpolation, augment),
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

    def __init__(self, folder: str, interpolation: str, augment: str):
        self._arguments = (folder, interpolation, augment)
        self._dataset = self._build(*self._arguments)

    @staticmethod
    def _build(folder: str, interpolation: str, augment: str) -> Any:
        from eca_jax.weights.torch.peer import import_timm, import_torchvision

        torchvision = import_torchvision()
        transforms = torchvision.transforms
        transform: Any
        if augment:
            import_timm()
            from timm.data import transforms_factory

            transform = transforms_factory.transforms_imagenet_train(
                _IMAGE_SIZE, auto_augment=augment, interpolation=interpolation, color_jitter=None, use_prefetcher=True
            )
        else:
            mode = transforms.InterpolationMode(interpolation)
            crop = transforms.RandomResizedCrop(_IMAGE_SIZE, interpolation=mode)
            transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
        return torchvision.datasets.ImageFolder(f"{folder}/train", transform)

    def __getstate__(self) -> tuple[str, str, str]:
        return self._arguments

    def __setstate__(self, arguments: tuple[str, str, str]) -> None:
        self.__init__(*arguments)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]
