"""`eca-jax verify`."""

import argparse
from typing import Any

from eca_jax.commands.convert import describe
from eca_jax.commands.options import add_weights, positive, read
from eca_jax.models.detection.detector import Detector
from eca_jax.weights.torch import verify, verify_detection

DETECTORS_SIZE = 256  # of the random images; of 800 pixels they would take minutes


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="compare a model with its PyTorch original on your own weights",
        description="Runs our model and its PyTorch original on the same random images with the same weights, and "
        "prints the largest difference after every stage and at the logits. Exit status 1 if one of them, relative "
        "to the largest magnitude there, is above the tolerance.",
    )
    add_weights(parser)
    parser.add_argument(
        "--reference",
        help="timm, torchvision, ecanet (the released networks) or MODULE:FACTORY, a function that returns a "
        "torch.nn.Module (default: where the model comes from)",
    )
    parser.add_argument("--image_size", type=positive, help="pixels (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="of the images")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    weights = read(args)
    name, options = weights.card.model, weights.card.options
    detector = weights.model if isinstance(weights.model, Detector) else None
    if detector and args.reference:
        raise ValueError("a detector's reference is torchvision's: --reference goes with other models")
    module = verify_detection.original(detector) if detector else verify.original(name, options, args.reference)
    verify.load_original(module, verify.original_tensors(weights), f"the reference {type(module).__name__}")
    size = args.image_size or (DETECTORS_SIZE if detector else None)
    images = verify.random_images(name, options, size, args.seed)
    if detector:
        differences = verify_detection.compare(detector, weights.variables, module, images)
    else:
        differences = verify.compare(name, options, weights.variables, module, images)

    print(f"{describe(weights)} from {args.weights}, and {type(module).__module__}.{type(module).__name__}")
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
