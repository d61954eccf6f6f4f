"""`python -m eca_jax predict`, `evaluate` and `export`."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from tqdm import tqdm

from eca_jax.compilation_cache import use_compilation_cache
from eca_jax.inference.predictor import BATCH_SIZES, Loaded, Prediction, Predictor, load_for_inference
from eca_jax.weights.card import Card


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    predict = subparsers.add_parser(
        "predict",
        help="classes of images",
        description="Prints the likeliest classes of images. A file that cannot be read as an image is reported on "
        "standard error and left out, and the exit status is 1 then; it is 2 where nothing could be done.",
    )
    _add_weights(predict)
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder (all files in it), a glob, or - for names on stdin"
    )
    predict.add_argument("--top", type=int, default=5, help="how many classes to print (5)")
    predict.add_argument("--classes", help="a text file with one class name a line, in the order of the classes")
    predict.add_argument("--batch_size", type=int, help="by default 1, 8 or 32, by the number of images")
    form = predict.add_mutually_exclusive_group()
    for name, text in (("json", "a JSON object for each image, one a line"), ("csv", "a CSV row for each class")):
        form.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=f"print {text}")
    predict.set_defaults(run=run_predict, format="table")

    evaluate = subparsers.add_parser("evaluate", help="accuracy on a validation set, every image once")
    _add_weights(evaluate)
    evaluate.add_argument("--data", default="imagenet2012", help="imagenet2012, folder or digits")
    evaluate.add_argument("--data_dir", default="", help="where the data set is; see the README")
    evaluate.add_argument("--batch_size", type=int, default=64, help="over all devices (64)")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=run_evaluate)

    export = subparsers.add_parser(
        "export",
        help="model and weights as one file that needs only JAX",
        description="Writes one file that `eca_jax.load_exported`, or a few lines of JAX and NumPy, can run.",
    )
    _add_weights(export)
    export.add_argument("out", metavar="OUT", help="the file to write, such as model.npz")
    export.add_argument("--saved_model", action="store_true", help="write a TensorFlow SavedModel, a directory")
    export.add_argument("--classes", help="a text file with one class name a line, in the order of the classes")
    export.add_argument(
        "--input", default="uint8", choices=("uint8", "float32"), help="pixels, or pixels normalised by the caller"
    )
    export.add_argument("--platforms", default="cpu,cuda,tpu", help="what it shall run on (cpu,cuda,tpu)")
    export.set_defaults(run=run_export)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a name that `list` shows; a workdir names its own")
    parser.add_argument("--weights", required=True, help="workdir, weights directory, .pth, .pth.tar or .safetensors")
    parser.add_argument("--step", type=int, help="of a workdir: this step's weights instead of the best ones")
    parser.add_argument("--raw", action="store_true", help="of a workdir: not the moving average of the weights")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the computation")


def _load(args: argparse.Namespace, classes: str | None = None) -> Loaded:
    loaded = load_for_inference(args.model, args.weights, step=args.step, ema=not args.raw, dtype=jnp.dtype(args.dtype))
    return loaded.with_class_names(Path(classes).read_text().splitlines()) if classes else loaded


def run_predict(args: argparse.Namespace) -> int:
    if args.top < 1:
        raise ValueError(f"--top must be 1 or more, not {args.top}")
    paths = list(_paths(args.images))
    if not paths:
        raise ValueError(f"there are no images in {' '.join(args.images)}")
    use_compilation_cache()
    loaded = _load(args, args.classes)
    size = args.batch_size or next((size for size in BATCH_SIZES if size >= len(paths)), BATCH_SIZES[-1])
    predictor = Predictor(loaded, batch_sizes=(size,))

    with tqdm(total=len(paths), unit="image", disable=None, dynamic_ncols=True) as bar:
        skipped = 0

        def report(path: str, error: Exception) -> None:
            nonlocal skipped
            skipped += 1
            bar.update()
            tqdm.write(f"skipped: {' '.join(str(error).split())}", file=sys.stderr)

        show = _writer(args, paths)
        for path, logits in predictor.stream(paths, on_error=report):
            show(path, predictor.rank(logits, args.top))
            bar.update()
    return 0 if not skipped else 1 if skipped < len(paths) else 2


def _paths(arguments: Sequence[str]) -> Iterator[str]:
    """Names of files: those of folders and patterns in alphabetical order, those on standard input for a `-`."""
    for argument in arguments:
        if argument == "-":
            yield from (line for line in sys.stdin.read().splitlines() if line)
        elif os.path.isdir(argument):
            files = (path for path in Path(argument).rglob("*") if path.is_file())
            yield from sorted(str(path) for path in files if not path.name.startswith("."))
        elif not os.path.exists(argument) and (found := glob(argument, recursive=True)):
            yield from sorted(path for path in found if not os.path.isdir(path))
        else:
            yield argument  # one that does not exist is reported when it is its turn


def _writer(args: argparse.Namespace, paths: Sequence[str]) -> Callable[[str, list[Prediction]], None]:
    """What prints the classes of one image; the header comes with the first."""
    width = max(len("image"), *map(len, paths))
    headers = {"json": "", "csv": "image,rank,class,name,probability\n"}
    header = headers.get(args.format, f"{'image':{width}}  probability  class\n")

    def lines(path: str, found: list[Prediction]) -> Iterator[str]:
        if args.format == "json":
            yield json.dumps({"image": path, "classes": [_fields(prediction) for prediction in found]})
        for rank, prediction in enumerate(found, start=1):
            named = prediction.name
            if args.format == "csv":
                row = io.StringIO()
                values = (path, rank, prediction.index, "" if named is None else named, prediction.probability)
                csv.writer(row, lineterminator="").writerow(values)
                yield row.getvalue()
            elif args.format == "table":
                shown = prediction.index if named is None else named
                yield f"{path if rank == 1 else '':{width}}  {prediction.probability:11.2%}  {shown}"

    def write(path: str, found: list[Prediction]) -> None:
        nonlocal header
        tqdm.write(header + "\n".join(lines(path, found)))  # above the progress bar
        header = ""

    return write


def _fields(prediction: Prediction) -> dict[str, Any]:
    named = {} if prediction.name is None else {"name": prediction.name}
    return {"class": prediction.index, "probability": prediction.probability, **named}


def run_evaluate(args: argparse.Namespace) -> int:
    from eca_jax.data import load_source
    from eca_jax.tasks.classification import Classification
    from eca_jax.training.evaluate import evaluate_weights

    source = load_source(args.data, args.data_dir)
    loaded = _load(args)
    card = Card(loaded.name, {"num_classes": loaded.model.num_classes}, loaded.preparation)
    task = Classification(loaded.model, card, args.batch_size, lambda: source)
    metrics = evaluate_weights(task, loaded.variables, args.batch_size)
    if args.json:
        print(json.dumps({"model": loaded.name, "data": args.data, **metrics}))
    else:
        print(f"{loaded.name}: {task.describe(metrics)}")
        print(f"on {metrics['count']} images of {args.data}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    from eca_jax.inference.export import export, export_saved_model

    loaded = _load(args, args.classes)
    write = export_saved_model if args.saved_model else export
    write(args.out, loaded, input=args.input, platforms=args.platforms.split(","))
    print(f"{args.out}: {loaded.name}, {args.input} images [N, S, S, 3] of {loaded.preparation.image_size} pixels")
    return 0
