"""`eca-jax bench`: speed, measured here or estimated by the TPU compiler, beside what else there is."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from eca_jax.bench import report as bench_report

# A subject's module is imported when the subject is asked for: those that read images need more packages than
# JAX, Flax and Optax.


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="measure speed, or have it estimated for a TPU", description=__doc__)
    subjects = parser.add_subparsers(required=True, metavar="SUBJECT")
    _add_tpu(subjects)
    _add_device(subjects, "step", "training steps")
    _add_device(subjects, "infer", "inference")
    _add_attention(subjects)
    _add_conv(subjects)
    _add_predict(subjects)
    _add_detect(subjects)
    _add_data(subjects)
    _add_endurance(subjects)
    _add_recipe(subjects)


def _add_tpu(subjects: Any) -> None:
    parser = _subject(subjects, "tpu", "the TPU compiler's estimates of attention's cost; needs libtpu, no TPU", _tpu)
    parser.add_argument("--model", default="eca_resnet50")
    parser.add_argument("--baseline", default="resnet50", help="the model the ratios refer to")
    parser.add_argument("--topology", default="v5e:2x2", help="such as v5e:4x4, v4:2x2x2, v6e-8")
    parser.add_argument("--batch_per_chip", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--naive", action="store_true", help="also with ECA as a layer of its own")
    parser.add_argument("--only", choices=("train", "infer"), help="leave the other out")
    parser.add_argument("--jobs", type=int, default=1, help="compilations at a time, each of about 5 GB (1)")


def _add_device(subjects: Any, kind: str, what: str) -> None:
    parser = _subject(subjects, kind, f"{what} on this machine, beside a PyTorch peer", _device)
    parser.add_argument("--model", default="eca_resnet50")
    parser.add_argument("--baseline", help="a second model of ours, such as resnet50")
    parser.add_argument("--batch_size", type=_sizes, default=[32], help="comma-separated, such as 1,32")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="bfloat16 on a GPU, float32 elsewhere")
    parser.add_argument("--peer", choices=("torch",), help="the same model in PyTorch, in all its fast forms")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one contestant's turn, at least one pass")
    parser.set_defaults(kind=kind)


def _add_attention(subjects: Any) -> None:
    text = "each attention in one network, over the plain one: measured here, or counted by the TPU compiler"
    parser = _subject(subjects, "attention", text, _attention)
    parser.add_argument("--model", default="resnet50", help="that the attentions go into")
    parser.add_argument("--attention", type=_names, metavar="NAME,...", help="which, '*' is all (the pooled gates)")
    parser.add_argument("--stage_sizes", type=_sizes, metavar="N,N,N,N", help="of a shorter network")
    parser.add_argument("--batch_size", type=int, default=32, help="images, on a TPU of one chip")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--topology", help="such as v5e:2x2: the TPU compiler's counts; needs libtpu, no TPU")
    parser.add_argument("--only", choices=("train", "infer"), help="leave the other out, where it is measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one contestant's turn, at least one pass")


def _names(text: str) -> list[str]:
    return text.split(",")


def _add_conv(subjects: Any) -> None:
    parser = _subject(subjects, "conv", "every convolution of a model on this machine, in every form", _conv)
    parser.add_argument("--model", default="eca_resnet50")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--peer", choices=("torch",), help="PyTorch's operators too")
    parser.add_argument("--rounds", type=int, default=3)


def _add_predict(subjects: Any) -> None:
    parser = _subject(subjects, "predict", "a stream of JPEG files of mixed sizes", _predict)
    parser.add_argument("--model", default="eca_resnet50")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))


def _add_detect(subjects: Any) -> None:
    parser = _subject(subjects, "detect", "a detector on one image at a time, beside torchvision's network", _detect)
    parser.add_argument("--model", default="faster_rcnn_resnet50_fpn")
    parser.add_argument("--image_size", type=int, default=800, help="of the short side (800)")
    parser.add_argument("--peer", choices=("torch",), help="torchvision's modules with the same shapes")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, taking turns")


def _add_data(subjects: Any) -> None:
    parser = _subject(subjects, "data", "the input pipeline, beside torchvision's DataLoader", _data)
    parser.add_argument("--images", type=int, default=2048, help="JPEG files to make and read")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads of ours, processes of the peer")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, taking turns")
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    parser.add_argument("--augment", default="", help="such as rand-m7-mstd0.5-inc1; the peer is timm's then")
    parser.add_argument("--stored", choices=("folder", "tfrecord", "array_record"), default="folder", help="ours only")


def _add_endurance(subjects: Any) -> None:
    parser = _subject(subjects, "endurance", "memory over a long run of the input pipeline", _endurance)
    parser.add_argument("--steps", type=int, default=10_000, help="batches of 8 small JPEGs (10000)")
    parser.add_argument("--augment", default="rand-m7-mstd0.5-inc1")
    parser.add_argument("--stored", choices=("folder", "tfrecord", "array_record"), default="tfrecord")


def _add_recipe(subjects: Any) -> None:
    parser = _subject(subjects, "recipe", "the whole training step of a recipe on this machine; needs no data", _recipe)
    parser.add_argument("recipe", help="a recipe's name or file")
    parser.add_argument("--batch_size", type=int, help="in place of the recipe's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement, at least one step")


def _subject(
    subjects: Any, name: str, text: str, measure: Callable[[argparse.Namespace], bench_report.Report]
) -> argparse.ArgumentParser:
    """A parser with the options that all subjects share; `measure` makes its report."""
    parser = subjects.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw the results as bars into FILE (.png, .svg or .pdf)")
    parser.set_defaults(run=run, measure=measure)
    return parser


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",")]
    if min(sizes) < 1:
        raise ValueError
    return sizes


def run(options: argparse.Namespace) -> int:
    report = options.measure(options)
    print(json.dumps(report.result, indent=2) if options.json else report.text)
    if options.plot:
        bench_report.plot(report.bars, options.plot)
    return 0


def _tpu(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import tpu

    return tpu.run(
        options.model,
        options.baseline,
        options.topology,
        options.batch_per_chip,
        options.image_size,
        naive=options.naive,
        kinds=(options.only,) if options.only else tpu.PASSES,
        jobs=options.jobs,
        progress=_progress,
    )


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _attention(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import attention
    from eca_jax.layers import list_attentions

    patterns = options.attention or attention.pooled_gates()
    names = list(dict.fromkeys(name for pattern in patterns for name in list_attentions(pattern) or [pattern]))
    if options.topology:
        return attention.run_tpu(
            options.model,
            names,
            options.topology,
            options.batch_size,
            options.image_size,
            stage_sizes=options.stage_sizes,
            progress=_progress,
        )
    return attention.run(
        options.model,
        names,
        options.batch_size,
        options.image_size,
        stage_sizes=options.stage_sizes,
        kinds=attention.KINDS if not options.only else ("step" if options.only == "train" else "infer",),
        rounds=options.rounds,
        seconds=options.seconds,
        progress=_progress,
    )


def _conv(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import conv

    peer = options.peer == "torch"
    return conv.run(options.model, options.batch_size, options.image_size, options.rounds, peer, _progress)


def _device(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import device

    return device.run(
        options.kind,
        options.model,
        options.batch_size,
        options.image_size,
        dtype=options.dtype,
        baseline=options.baseline,
        peer=options.peer == "torch",
        rounds=options.rounds,
        seconds=options.seconds,
    )


def _predict(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import predict

    return predict.run(options.model, options.images, options.batch_size, options.dtype)


def _detect(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import detect

    return detect.run(options.model, options.image_size, options.peer == "torch", options.rounds)


def _data(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import data

    return data.run(
        options.images,
        options.workers,
        options.seconds,
        options.rounds,
        options.interpolation,
        options.augment,
        options.stored,
    )


def _endurance(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import endurance

    return endurance.run(options.steps, options.stored, options.augment)


def _recipe(options: argparse.Namespace) -> bench_report.Report:
    from eca_jax.bench import recipe
    from eca_jax.config import load_recipe

    config = load_recipe(options.recipe)
    if options.batch_size:
        config.batch_size = options.batch_size
    return recipe.run(options.recipe, config, options.seconds, options.rounds)
