"""`python -m eca_jax bench`: speed, measured here or estimated by the TPU compiler, beside what else there is."""

from typing import Any

from eca_jax.analysis import bench_device, bench_tpu


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="measure speed, or have it estimated for a TPU", description=__doc__)
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    for module in (bench_tpu, bench_device):
        module.add_parsers(subjects)
