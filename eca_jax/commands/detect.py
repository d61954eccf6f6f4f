"""`eca-jax detect`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from eca_jax.commands.options import add_classes, add_dtype, add_weights, read
from eca_jax.commands.predict import image_paths
from eca_jax.compilation_cache import use_compilation_cache
from eca_jax.inference.detector import Detector, as_pixels

SMALLEST = 384  # pixels of a drawn picture's short side
# Colours that are told apart, one after another for the labels.
COLOURS = ((230, 75, 53), (0, 130, 200), (60, 180, 75), (245, 160, 40), (145, 30, 180), (70, 220, 230), (240, 50, 230))


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "detect",
        help="boxes, classes and masks of the objects in images",
        description="Prints the objects in images. A file that cannot be read as an image is reported on standard "
        "error and left out, and the exit status is 1 then; it is 2 where nothing could be done.",
    )
    add_weights(parser)
    add_dtype(parser)
    add_classes(parser)
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="a file, a folder (all files in it), a glob, or - for names on stdin"
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of an object (0.5)")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object for each image, boxes as COCO's x y w h"
    )
    parser.add_argument("--draw", metavar="DIR", type=Path, help="write each image with its objects into a directory")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold must be from 0 to 1, not {args.threshold}")
    paths = list(image_paths(args.images))
    if not paths:
        raise ValueError(f"there are no images in {' '.join(args.images)}")
    use_compilation_cache()
    detector = Detector.of(read(args))
    if args.draw:
        args.draw.mkdir(parents=True, exist_ok=True)
    skipped = 0
    for path in paths:
        try:
            pixels = as_pixels(path)
        except (ValueError, OSError) as error:
            skipped += 1
            print(f"skipped: {' '.join(str(error).split())}", file=sys.stderr)
            continue
        found = detector(pixels, threshold=args.threshold)[0]
        names = [_name(detector.class_names, label) for label in found["labels"]]
        print(
            _json(path, found, names, detector.model.preset.offset) if args.json else _table(path, found, names),
            flush=True,
        )
        if args.draw:
            drawn(pixels, found, names, SMALLEST).save(args.draw / f"{Path(path).stem}.png")
    return 0 if not skipped else 1 if skipped < len(paths) else 2


def drawn(pixels: np.ndarray, found: dict[str, np.ndarray], names: list[str], smallest: int = 0) -> Image.Image:
    """The image with the masks, boxes and names of its objects; the best lie on top.

    An image with a side below `smallest` pixels is enlarged, by a whole number, so that the names can be read.
    """
    picture = pixels.astype(np.float32)
    for mask, label in zip(found.get("masks", ())[::-1], found["labels"][::-1], strict=False):
        inside = mask > 0.5
        picture[inside] = 0.55 * picture[inside] + 0.45 * np.array(COLOURS[label % len(COLOURS)])
    image = Image.fromarray(picture.astype(np.uint8))
    times = max(1, -(-smallest // min(image.size)))
    image = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 250))
    font = ImageFont.load_default(max(10, min(image.size) / 40))
    for k in reversed(range(len(names))):
        colour = COLOURS[found["labels"][k] % len(COLOURS)]
        x1, y1, x2, y2 = (times * float(value) for value in found["boxes"][k])
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)
        text = f"{names[k]} {found['scores'][k]:.0%}"
        left, top, right, bottom = draw.textbbox((x1, y1), text, font)
        height = bottom - top + 4
        y = y1 - height if y1 >= height else y1
        draw.rectangle((x1, y, x1 + right - left + 4, y + height), fill=colour)
        draw.text((x1 + 2, y + 2 - (top - y1)), text, fill="white", font=font)
    return image


def _name(names: list[str] | None, label: int) -> str:
    return names[label] if names and names[label] else str(label)


def _json(path: str, found: dict[str, np.ndarray], names: list[str], offset: float = 0.0) -> str:
    objects = []
    for k, name in enumerate(names):
        x1, y1, x2, y2 = (float(value) for value in found["boxes"][k])
        label, score = int(found["labels"][k]), float(found["scores"][k])
        objects.append(
            {"category_id": label, "name": name, "bbox": [x1, y1, x2 - x1 + offset, y2 - y1 + offset], "score": score}
        )
    return json.dumps({"image": path, "objects": objects})


def _table(path: str, found: dict[str, np.ndarray], names: list[str]) -> str:
    lines = [path if names else f"{path}  nothing found"]
    for box, score, name in zip(found["boxes"], found["scores"], names, strict=True):
        lines.append(f"  {score:7.2%}  {' '.join(f'{value:7.1f}' for value in box)}  {name}")
    return "\n".join(lines)
