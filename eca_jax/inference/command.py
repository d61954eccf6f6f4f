"""`python -m eca_jax predict` and `python -m eca_jax evaluate`."""

import argparse
import json
from pathlib import Path

import numpy as np

from eca_jax.inference.predictor import Predictor, load_for_inference


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    predict = subparsers.add_parser("predict", help="classes of image files")
    _add_weights(predict)
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any kind that Pillow reads")
    predict.add_argument("--top", type=int, default=5, help="how many classes to print (5)")
    predict.add_argument("--classes", help="a text file with one class name a line, in the order of the classes")
    predict.add_argument("--batch_size", type=int, default=32)
    predict.set_defaults(run=run_predict)

    evaluate = subparsers.add_parser("evaluate", help="accuracy on a validation set, every image once")
    _add_weights(evaluate)
    evaluate.add_argument("--data", default="imagenet2012", help="imagenet2012, folder or digits")
    evaluate.add_argument("--data_dir", default="", help="where the data set is; see the README")
    evaluate.add_argument("--batch_size", type=int, default=64, help="over all devices (64)")
    evaluate.set_defaults(run=run_evaluate)


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="a name that `list` shows; a workdir names its own")
    parser.add_argument("--weights", required=True, help="workdir, weights directory, .pth, .pth.tar or .safetensors")
    parser.add_argument("--step", type=int, help="of a workdir: this step's weights instead of the best ones")
    parser.add_argument("--raw", action="store_true", help="of a workdir: not the moving average of the weights")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _load(args: argparse.Namespace):
    return load_for_inference(args.model, args.weights, step=args.step, ema=not args.raw)


def run_predict(args: argparse.Namespace) -> int:
    from eca_jax.data.preprocess import eval_image

    names = Path(args.classes).read_text().splitlines() if args.classes else None
    _, model, variables, how = _load(args)
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"{args.classes} names {len(names)} classes, the model has {model.num_classes}")
    # Every image is read before the first is classified: a bad one stops the command with nothing printed.
    images = [eval_image(path, how.image_size, how.resize_size, how.interpolation) for path in args.images]
    batch_size = min(args.batch_size, len(images))
    probabilities = Predictor(model, variables, how, batch_size).probabilities(np.stack(images))
    for path, row in zip(args.images, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[: args.top]
        found = [{"class": int(c), "probability": float(row[c])} | ({"name": names[c]} if names else {}) for c in best]
        if args.json:
            print(json.dumps({"image": path, "classes": found}))
        else:
            listed = "  ".join(f"{c.get('name', c['class'])} {c['probability']:.2%}" for c in found)
            print(f"{path}  {listed}")
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    from eca_jax.data import load_source
    from eca_jax.inference.evaluate import evaluate

    source = load_source(args.data, args.data_dir)
    name, model, variables, how = _load(args)
    if model.num_classes < source.num_classes:
        raise ValueError(f"{args.data} has {source.num_classes} classes, these weights have {model.num_classes}")
    means = evaluate(model, variables, source, how, batch_size=args.batch_size)
    if args.json:
        print(json.dumps({"model": name, "data": args.data, **means}))
    else:
        print(f"{name}: top-1 {means['top1']:.2%}, top-5 {means['top5']:.2%}, loss {means['loss']:.4f}")
        print(f"on {means['count']} images of {args.data}")
    return 0
