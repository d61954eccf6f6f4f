"""`eca-jax serve`."""

import argparse
import dataclasses
import logging
import os
import re
import sys
from typing import Any

from eca_jax.commands.options import add_classes, add_dtype, add_model, positive, read_class_names, step
from eca_jax.compilation_cache import use_compilation_cache
from eca_jax.serving.limits import Limits
from eca_jax.serving.models import Models, Source

QUICKSTART = "runs/quickstart"
BATCH_SIZES = "1,8,32"


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="models behind HTTP, and a page to try them",
        description="Serves models over HTTP: /v1/predict, /v1/detect, KServe's v2 protocol, a page to try a model at "
        "/, /openapi.json, /metrics, /healthz and /readyz. SIGTERM ends it once what was accepted is answered.",
    )
    parser.add_argument(
        "--weights",
        action="append",
        metavar="[NAME=]PATH",
        help="what `predict` takes, or an exported .npz; more than once for several models, the first one the default "
        f"({QUICKSTART}, where that is)",
    )
    add_model(parser)
    parser.add_argument("--step", type=step, help="of a workdir: a step, or 'best' (the default, looked for again)")
    parser.add_argument("--raw", action="store_true", help="not the moving average of the weights, where that is there")
    parser.add_argument("--part", help="of a file that holds several: the entry or the prefix of the weights to take")
    parser.add_argument("--format", help="whose names the tensors of a PyTorch file have, as for `predict`")
    add_dtype(parser)
    add_classes(parser)
    parser.add_argument("--features", action="store_true", help="serve the features, too: as many programs again")
    parser.add_argument(
        "--no_grad_cam", action="store_true", help="do not compile what says where a class is seen in an image"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 for all (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for any that is free (8000)")
    parser.add_argument(
        "--batch_sizes", type=_sizes, default=_sizes(BATCH_SIZES), help=f"to compile for ({BATCH_SIZES})"
    )
    parser.add_argument(
        "--max_delay", type=_seconds, default=0.005, help="seconds that an image waits for others (0.005)"
    )
    parser.add_argument(
        "--reload",
        type=_seconds,
        default=10.0,
        help="seconds between looks for a workdir's new best checkpoint; 0 for never (10)",
    )
    limits = parser.add_argument_group("limits")
    for name, kind, text in (
        ("body_bytes", positive, "of a request's body"),
        ("pixels", positive, "of an image"),
        ("images", positive, "of a request"),
        ("waiting_images", positive, "accepted and not answered yet"),
        ("requests", positive, "in hand at a time"),
        ("seconds", _seconds, "for a body to arrive, an answer to be computed, and a client to take it"),
    ):
        default = getattr(Limits, name)
        limits.add_argument(f"--max_{name}", type=kind, default=default, help=f"{text} ({default:g})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        from eca_jax.serving.server import serve
        from eca_jax.serving.service import Service
    except ImportError as error:
        raise ImportError(f"serving needs more packages ({error}): pip install 'eca-jax[serve]'") from error

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    for name in ("eca_jax.serving", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO if name == "eca_jax.serving" else logging.WARNING)
    use_compilation_cache()
    outputs = ("logits", "features") if args.features else ("logits",)
    models = Models(_sources(args), batch_sizes=args.batch_sizes, outputs=outputs, grad_cam=not args.no_grad_cam)
    limits = Limits(**{field.name: getattr(args, f"max_{field.name}") for field in dataclasses.fields(Limits)})
    serve(Service(models, limits, max_delay=args.max_delay, reload_seconds=args.reload or None), args.host, args.port)
    return 0


def _sources(args: argparse.Namespace) -> list[Source]:
    given = args.weights or ([QUICKSTART] if os.path.isdir(QUICKSTART) else [])
    if not given:
        raise ValueError(f"there is no {QUICKSTART}: say which --weights to serve, or run `make quickstart` first")
    single = {name: getattr(args, name) for name in ("model", "step", "part", "format")}
    options = {name: value for name, value in single.items() if value is not None}
    if len(given) > 1 and (options or args.classes):
        raise ValueError(f"--{next(iter(options), 'classes')} is of one model, and there are several --weights")
    # An exported model has these settled, and refuses them.
    options |= {"ema": False} if args.raw else {}
    options |= {"dtype": args.dtype} if args.dtype != "float32" else {}
    names = read_class_names(args.classes) if args.classes else None
    return [Source(path, name, options, names) for name, path in map(_named, given)]


def _named(text: str) -> tuple[str | None, str]:
    """(name, path) of NAME=PATH; a path that is there may have an = of its own."""
    match = re.fullmatch(r"([\w.-]+)=(.+)", text)
    return (match[1], match[2]) if match and not os.path.exists(text) else (None, text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive(size) for size in text.split(","))


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text}")
    return number
