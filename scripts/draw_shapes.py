"""Writes pictures of the generated shapes that no training has seen: python scripts/draw_shapes.py DIRECTORY [COUNT]"""

import sys
from pathlib import Path

from PIL import Image

from eca_jax.data.sources.shapes import ShapesSource


def main(directory: str, count: str = "8") -> None:
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for example in ShapesSource().examples("validation")[: int(count)]:
        Image.fromarray(example.read()).save(folder / f"{example.image_id:02}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
