"""`eca-jax info`."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from eca_jax.analysis.counts import count, parts
from eca_jax.analysis.detection_counts import IMAGE_SIZE, count_detector
from eca_jax.commands.options import positive
from eca_jax.models import list_models


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("info", help="parameters and multiply-adds of a model")
    parser.add_argument("model", help="a name that `list` shows")
    parser.add_argument("--image_size", type=int, help="pixels; the model's own by default")
    parser.add_argument("--num_classes", type=int, help="the model's own by default")
    parser.add_argument(
        "--layers",
        nargs="?",
        type=positive,
        const=1,
        metavar="DEPTH",
        help="of a classifier: its blocks with their outputs and parameters; 2: and the layers in them",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options = {} if args.num_classes is None else {"num_classes": args.num_classes}
    if args.model in list_models(task="detection"):
        return _detector(args, options)
    counts = count(args.model, image_size=args.image_size, **options)
    report = counts.report()
    layers = parts(args.model, depth=args.layers, image_size=args.image_size, **options) if args.layers else []
    if layers:
        report["layers"] = [dataclasses.asdict(part) for part in layers]
    rows = [
        ("parameters", f"{counts.parameters:,}"),
        ("  in millions (10^6)", f"{report['parameters_millions']:.2f}"),
        ("  in the paper's units (2^20)", f"{report['parameters_2_20']:.2f}M"),
        ("  of attention", f"{counts.attention_parameters:,}"),
        (f"multiply-adds at {counts.image_size} pixels", f"{counts.multiply_adds:,}"),
        ("  in GMACs (10^9)", f"{report['multiply_adds_giga']:.3f}"),
        ("  in units of 2^30", f"{report['multiply_adds_2_30']:.3f}"),
    ]
    if counts.paper_operations is not None:
        rows += [
            ("operations as the paper counts them", f"{counts.paper_operations:,}"),
            ("  in millions (2^20)", f"{report['paper_operations_2_20']:.1f}M"),
            ("  in billions (2^30)", f"{report['paper_operations_2_30']:.3f}G"),
        ]
    _print(counts.model, rows, report if args.json else None)
    if layers and not args.json:
        print(f"  {'layer':<32}{'kind':<20}{'output':>20}{'parameters':>16}")
        for part in layers:
            output = " x ".join(map(str, part.output[1:]))
            print(f"  {part.path:<32}{part.kind:<20}{output:>20}{part.parameters:>16,}")
    return 0


def _detector(args: argparse.Namespace, options: dict[str, int]) -> int:
    size = (args.image_size, args.image_size) if args.image_size else IMAGE_SIZE
    counts = count_detector(args.model, image_size=size, **options)
    report = counts.report()
    rows = [
        ("parameters", f"{counts.parameters:,}"),
        ("  without the frozen stem and stage (paper)", f"{counts.trained_parameters:,}"),
        ("  in millions (10^6)", f"{report['trained_parameters_millions']:.2f}M"),
        (f"operations at {size[0]}x{size[1]} as the paper counts", f"{counts.paper_operations:,}"),
        ("  in billions (10^9)", f"{report['paper_operations_giga']:.2f}G"),
    ]
    return _print(counts.model, rows, report if args.json else None)


def _print(model: str, rows: list[tuple[str, str]], report: Mapping[str, Any] | None) -> int:
    """The rows for people, or the report as JSON."""
    if report is not None:
        print(json.dumps(report))
        return 0
    print(model)
    for label, value in rows:
        print(f"  {label:<46}{value:>18}")
    return 0
