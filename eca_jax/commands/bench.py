"""`python -m eca_jax bench`: speed, measured here or estimated by the TPU compiler, beside what else there is."""

import argparse
from typing import Any

from eca_jax.bench import device as bench_device
from eca_jax.bench import report as bench_report
from eca_jax.bench import tpu as bench_tpu


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="measure speed, or have it estimated for a TPU", description=__doc__)
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    bench_tpu.add_parsers(subjects)
    bench_device.add_parsers(subjects)
    predict = subjects.add_parser("predict", help="a stream of JPEG files of mixed sizes")
    predict.add_argument("--model", default="eca_resnet50")
    predict.add_argument("--images", type=int, default=1000)
    predict.add_argument("--batch_size", type=int, default=32)
    predict.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    bench_report.add_output_options(predict)
    predict.set_defaults(run=run_predict)
    data = subjects.add_parser("data", help="the input pipeline, beside torchvision's DataLoader")
    data.add_argument("--images", type=int, default=512, help="JPEG files to make and read")
    data.add_argument("--workers", type=int, default=2, help="decoding threads of ours, processes of the peer")
    data.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    data.add_argument("--rounds", type=int, default=5, help="measurements of each, taking turns")
    bench_report.add_output_options(data)
    data.set_defaults(run=run_data)


# The subjects that read images need more than jax, flax and optax, and are imported when they are asked for.


def run_predict(options: argparse.Namespace) -> int:
    from eca_jax.bench import predict as bench_predict

    return bench_predict.run(options)


def run_data(options: argparse.Namespace) -> int:
    from eca_jax.bench import data as bench_data

    measured = bench_data.run(options.images, options.workers, options.seconds, options.rounds)
    sides = {"eca_jax.data": measured["rounds"], "torchvision DataLoader": measured["peer_rounds"]}
    speeds = {
        name: (min(rounds), measured[key], max(rounds))
        for (name, rounds), key in zip(sides.items(), ("images_per_second", "peer_images_per_second"), strict=True)
        if rounds
    }
    rows = [
        {"pipeline": name, "images/s": f"{middle:.0f}", "slowest - fastest": f"{low:.0f} - {high:.0f}"}
        for name, (low, middle, high) in speeds.items()
    ]
    machine = bench_report.machine()
    text = (
        f"training batches from JPEGs of {measured['kilobytes_per_image']:.0f} KB, {options.workers} workers, "
        f"{machine['device']}, {machine['cpu_cores']} CPU cores\n\n{bench_report.table(rows)}"
    )
    bench_report.show({**measured, "machine": machine}, text, {"images/s": speeds}, options)
    return 0
