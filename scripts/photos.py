"""Writes a folder of photographs as people have them, to try `eca-jax train finetune` on.

    python scripts/photos.py DIR            # 5 classes x 60: two photographs and three textures, as messy as real ones
    python scripts/photos.py DIR --digits   # scikit-learn's 1,797 handwritten digits as PNG files

The classes are crops of scikit-learn's two sample photographs, and generated bricks, wood and marble. Formats are
mixed, some pictures lie on their side with an EXIF note about it, one is corrupt, and tools' hidden files lie between.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

PER_CLASS = 60
KINDS = ("jpg", "png", "webp", "bmp", "tif", "JPEG")
Draw = Callable[[np.random.Generator], Image.Image]


def crop_of(name: str) -> Draw:
    """Random crops of a photograph, 1/25 to 1/4 of its area."""
    photograph = Image.fromarray(load_sample_image(name))

    def draw(random: np.random.Generator) -> Image.Image:
        share = random.uniform(0.2, 0.5)
        width, height = int(photograph.width * share), int(photograph.height * share)
        left, top = random.integers(photograph.width - width), random.integers(photograph.height - height)
        return photograph.crop((left, top, left + width, top + height))

    return draw


def noise(random: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Smooth noise from 0 to 1 with features of `cell` pixels, float [height, width]."""
    small = random.random((height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)


def shaded(value: np.ndarray, dark: tuple[int, int, int], light: tuple[int, int, int]) -> Image.Image:
    """A picture whose colours go from `dark` to `light` with `value`, float [height, width] from 0 to 1."""
    colours = np.asarray(dark) + value[..., None] * (np.asarray(light) - np.asarray(dark))
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def bricks(random: np.random.Generator) -> Image.Image:
    height, width = random.integers(120, 260, 2)
    row, long = random.integers(16, 32), random.integers(36, 70)
    y, x = np.mgrid[:height, :width]
    shifted = x + (y // row % 2) * (long // 2)
    mortar = (y % row < 3) | (shifted % long < 3)
    value = np.where(mortar, 1.0, 0.1 + 0.5 * noise(random, height, width, 12))
    return shaded(value, (110, 50, 40), (215, 190, 175))


def wood(random: np.random.Generator) -> Image.Image:
    height, width = random.integers(120, 260, 2)
    y, x = np.mgrid[:height, :width]
    bend = 40 * noise(random, height, width, 60)
    value = 0.5 + 0.5 * np.sin((y + bend + 0.1 * x) / random.uniform(2.0, 5.0))
    return shaded(0.7 * value + 0.3 * noise(random, height, width, 4), (90, 60, 35), (205, 165, 115))


def marble(random: np.random.Generator) -> Image.Image:
    height, width = random.integers(120, 260, 2)
    turbulence = sum(noise(random, height, width, cell) * cell for cell in (64, 32, 16, 8)) / 120
    value = np.abs(np.sin(turbulence * random.uniform(8, 14))) ** 0.4
    return shaded(value, (70, 75, 90), (240, 240, 235))


CLASSES: dict[str, Draw] = {
    "china": crop_of("china.jpg"),
    "flower": crop_of("flower.jpg"),
    "bricks": bricks,
    "wood": wood,
    "marble": marble,
}


def write_photos(root: Path) -> None:
    for label, (name, draw) in enumerate(CLASSES.items()):
        (root / name / ".thumbs").mkdir(parents=True)
        for number in range(PER_CLASS):
            image, options = draw(np.random.default_rng([label, number])), {}
            kind = KINDS[number % len(KINDS)]
            if kind in ("jpg", "JPEG") and number % 4 == 0:  # a phone held upright
                exif = Image.Exif()
                exif[0x0112] = 6
                image, options = image.transpose(Image.Transpose.ROTATE_90), {"exif": exif}
            image.save(root / name / f"IMG_{number:04}.{kind}", **options)
        (root / name / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (root / name / "._IMG_0000.jpg").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
        image.save(root / name / ".thumbs" / "a.png")
    whole = (root / "wood" / "IMG_0000.jpg").read_bytes()
    (root / "wood" / "IMG_0000.jpg").write_bytes(whole[: len(whole) // 3])
    (root / "china" / "notes.txt").write_text("Summer Palace\n")
    (root / "__MACOSX").mkdir()


def write_digits(root: Path) -> None:
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        grey.resize((32, 32), Image.Resampling.BICUBIC).save(root / str(label) / f"{number}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--digits", action="store_true")
    args = parser.parse_args()
    (write_digits if args.digits else write_photos)(args.root)
