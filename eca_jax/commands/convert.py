"""`python -m eca_jax convert` and `verify`."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from eca_jax.models import Preprocessing, preprocessing
from eca_jax.weights.card import Card
from eca_jax.weights.load import Weights, read_weights
from eca_jax.weights.store import save_directory
from eca_jax.weights.torch import release
from eca_jax.weights.torch.files import is_weights_file, write_state_dict
from eca_jax.weights.torch.names import COUNTS, SCHEMES
from eca_jax.weights.torch.state_dict import to_torch


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    convert = subparsers.add_parser(
        "convert",
        help="weights from PyTorch to Flax, or back",
        description="Weights from PyTorch to Flax, or back. Which of the two SRC and DST are shows in their names: "
        ".pth, .pt, .safetensors and .pth.tar are PyTorch files (.pth.tar in the form of the released training "
        "script, for its --resume), anything else is a directory: as SRC a training workdir or a weights "
        "directory, as DST a weights directory. Nothing is written unless every tensor fits.",
    )
    convert.add_argument("--model", required=True, metavar="NAME", help="a name of `python -m eca_jax list`")
    convert.add_argument(
        "--format", choices=SCHEMES, help="whose names the PyTorch file's tensors have (default: the model's own)"
    )
    convert.add_argument("--num_classes", type=int, help="insist on this number; by default the weights tell")
    convert.add_argument("--step", type=_step, help="of a workdir: a step, or 'best' (the default)")
    convert.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="of a workdir: the moving average where the run kept one (the default), or the weights themselves, "
        "which the optimizer's momentum belongs to",
    )
    convert.add_argument("source", metavar="SRC", type=Path)
    convert.add_argument("destination", metavar="DST", type=Path)
    convert.set_defaults(run=run_convert)

    verify = subparsers.add_parser(
        "verify",
        help="compare a model with its PyTorch original on your own weights",
        description="Runs our model and its PyTorch original on the same random images with the same weights, and "
        "prints the largest difference after every stage and at the logits. Exit status 1 if one of them, relative "
        "to the largest magnitude there, is above the tolerance.",
    )
    verify.add_argument("--model", required=True, metavar="NAME", help="a name of `python -m eca_jax list`")
    verify.add_argument("--weights", required=True, type=Path, help="a PyTorch file, a weights directory or a workdir")
    verify.add_argument(
        "--reference",
        help="timm, torchvision, ecanet (the released networks) or MODULE:FACTORY, a function that returns a "
        "torch.nn.Module (default: where the model comes from)",
    )
    verify.add_argument("--format", choices=SCHEMES, help="as for convert")
    verify.add_argument("--image_size", type=int, help="pixels (default: the model's own)")
    verify.add_argument("--seed", type=int, default=0, help="of the images")
    verify.add_argument("--tolerance", type=float, default=1e-4, help="relative (default: %(default)s)")
    verify.set_defaults(run=run_verify)


def run_convert(args: argparse.Namespace) -> int:
    overrides = {} if args.num_classes is None else {"num_classes": args.num_classes}
    weights = read_weights(
        args.model, args.source, scheme=args.format, step=args.step, ema=args.weights == "ema", **overrides
    )
    for line in _remarks(weights):
        print(line)
    if is_weights_file(args.destination):
        _write_torch(args, weights)
    else:
        _write_directory(args.destination, weights)
    count = sum(1 for pair in weights.model.pairs if pair.path[0] != COUNTS)
    print(f"{_describe(weights)}: {count} tensors written to {args.destination}")
    return 0


def _write_torch(args: argparse.Namespace, weights: Weights) -> None:
    model = weights.model
    tensors = to_torch(weights.variables, model.name, scheme=args.format, **model.options)
    if not str(args.destination).endswith(release.SUFFIX):
        write_state_dict(args.destination, tensors)
        return
    progress = release.Progress()
    if "step" in weights.meta and args.source.is_dir():
        averaged = args.weights == "ema" and weights.meta["config"]["ema_decay"] > 0
        progress = release.read_progress(args.source, weights.meta, averaged=averaged)
        if averaged:
            print("these are the averaged weights, so no momentum goes with them; --weights=raw keeps it")
    release.write_release_checkpoint(args.destination, tensors, model, progress)


def _write_directory(path: Path, weights: Weights) -> None:
    variables = {name: tree for name, tree in weights.variables.items() if name != COUNTS}
    stored = weights.meta.get("preprocessing")
    how = Preprocessing.from_json(stored) if stored else preprocessing(weights.model.name)
    card = Card(weights.model.name, weights.model.options, how, weights.meta.get("class_names"))
    save_directory(path, variables, card, _counts(weights.variables))


def run_verify(args: argparse.Namespace) -> int:
    from eca_jax.weights.torch import verify

    weights = read_weights(args.model, args.weights, scheme=args.format)
    name, options = weights.model.name, weights.model.options
    module = verify.original(name, options, args.reference)
    verify.load_original(module, verify.original_tensors(weights), f"the reference {type(module).__name__}")
    images = verify.random_images(name, options, args.image_size, args.seed)
    differences = verify.compare(name, options, weights.variables, module, images)

    print(f"{_describe(weights)} from {args.weights}, and {type(module).__module__}.{type(module).__name__}")
    print(f"on {len(images)} random images of {images.shape[1]} pixels, seed {args.seed}\n")
    print(f"{'':12}{'shape':22}{'largest value':>14}{'difference':>14}{'relative':>12}")
    for place in differences:
        shape = " x ".join(map(str, place.shape))
        print(f"{place.place:12}{shape:22}{place.magnitude:14.6g}{place.largest:14.3g}{place.relative:12.3g}")
    # Not `relative > tolerance`, which a NaN would pass.
    failed = [place.place for place in differences if not place.relative <= args.tolerance]
    if failed:
        print(f"\nFAILED: {', '.join(failed)} above {args.tolerance:g}")
        return 1
    print(f"\nthe same within {args.tolerance:g}")
    return 0


def _step(text: str) -> int | str:
    return text if text == "best" else int(text)


def _describe(weights: Weights) -> str:
    """ "eca_resnet50 (num_classes=10, kernel_sizes=(3, 3, 3, 3))"."""
    options = ", ".join(f"{key}={value}" for key, value in weights.model.options.items())
    return f"{weights.model.name} ({options})"


def _remarks(weights: Weights) -> Iterable[str]:
    """What the user should know about how the weights were changed."""
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in (weights.tensors or {}).values()})
    for kind in kinds:
        if kind in ("bfloat16", "float16"):
            yield f"{kind} tensors become float32, every value kept"
        elif kind == "float64":
            yield "float64 tensors become float32, rounded"


def _counts(variables: dict[str, Any]) -> dict[str, Any]:
    """BatchNorm's counters as an entry of config.json, {"layer1_0/bn1": 5004, ...}; none where they are all zero."""
    counts = flatten_dict(variables.get(COUNTS, {}))
    return {COUNTS: {"/".join(path[:-1]): int(count) for path, count in counts.items()}} if counts else {}
