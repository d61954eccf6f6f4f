"""`eca-jax predict`."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from typing import Any

from tqdm import tqdm

from eca_jax.commands.options import add_classes, add_dtype, add_weights, positive, read
from eca_jax.compilation_cache import use_compilation_cache
from eca_jax.data.sources.walk import files_under
from eca_jax.inference.predictor import BATCH_SIZES, Predictor
from eca_jax.inference.ranking import Prediction


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "predict",
        help="classes of images",
        description="Prints the likeliest classes of images. A file that cannot be read as an image is reported on "
        "standard error and left out, and the exit status is 1 then; it is 2 where nothing could be done.",
    )
    add_weights(parser)
    add_dtype(parser)
    add_classes(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder (all files in it), a glob, or - for names on stdin"
    )
    parser.add_argument("--top", type=positive, default=5, help="how many classes to print (5)")
    parser.add_argument("--batch_size", type=positive, help="by default 1, 8 or 32, by the number of images")
    form = parser.add_mutually_exclusive_group()
    for name, text in (("json", "a JSON object for each image, one a line"), ("csv", "a CSV row for each class")):
        form.add_argument(f"--{name}", dest="style", action="store_const", const=name, help=f"print {text}")
    parser.set_defaults(run=run, style="table")


def run(args: argparse.Namespace) -> int:
    paths = list(image_paths(args.images))
    if not paths:
        raise ValueError(f"there are no images in {' '.join(args.images)}")
    use_compilation_cache()
    weights = read(args)
    size = args.batch_size or next((size for size in BATCH_SIZES if size >= len(paths)), BATCH_SIZES[-1])
    predictor = Predictor(weights, batch_sizes=(size,))

    with tqdm(total=len(paths), unit="image", disable=None, dynamic_ncols=True) as bar:
        skipped = 0

        def report(path: str, error: Exception) -> None:
            nonlocal skipped
            skipped += 1
            bar.update()
            tqdm.write(f"skipped: {' '.join(str(error).split())}", file=sys.stderr)

        def doubt(path: str, how: str) -> None:
            tqdm.write(f"{path} is {how}: is light and dark the other way round?", file=sys.stderr)

        show = _writer(args.style, paths)
        for path, logits in predictor.stream(paths, on_error=report, on_doubt=doubt):
            show(path, predictor.rank(logits, args.top))
            bar.update()
    return 0 if not skipped else 1 if skipped < len(paths) else 2


def image_paths(arguments: Sequence[str]) -> Iterator[str]:
    """Names of files: those of folders and patterns in alphabetical order, those on standard input for a `-`."""
    for argument in arguments:
        if argument == "-":
            yield from (line for line in sys.stdin.read().splitlines() if line)
        elif os.path.isdir(argument):
            yield from sorted(_files(argument))
        elif not os.path.exists(argument) and (found := glob(argument, recursive=True)):
            yield from sorted(path for path in found if not os.path.isdir(path))
        else:
            yield argument  # one that does not exist is reported when it is its turn


def _files(folder: str) -> list[str]:
    """Of a folder and those in it, but for what tools leave there; links that lead nowhere are reported in turn."""
    found = files_under(folder)
    return [*found.files, *found.dangling]


def _writer(style: str, paths: Sequence[str]) -> Callable[[str, list[Prediction]], None]:
    """What prints the classes of one image; the header comes with the first."""
    width = max(len("image"), *map(len, paths))
    headers = {"json": "", "csv": "image,rank,class,name,probability\n"}
    header = headers.get(style, f"{'image':{width}}  probability  class\n")

    def lines(path: str, found: list[Prediction]) -> Iterator[str]:
        if style == "json":
            yield json.dumps({"image": path, "classes": [_fields(prediction) for prediction in found]})
        for rank, prediction in enumerate(found, start=1):
            named = prediction.name
            if style == "csv":
                row = io.StringIO()
                values = (path, rank, prediction.index, "" if named is None else named, prediction.probability)
                csv.writer(row, lineterminator="").writerow(values)
                yield row.getvalue()
            elif style == "table":
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
