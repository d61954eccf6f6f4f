"""`eca_jax.Detector`: boxes, classes and masks of photographs, from any weights of a detector."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from eca_jax import kernels
from eca_jax.data.decode import converted
from eca_jax.data.objects import Layout, resize_bilinear
from eca_jax.models.detection.canvas import canvas_of, long_side
from eca_jax.models.detection.detector import Detector as Network
from eca_jax.models.detection.paste import paste
from eca_jax.models.inputs import Preprocessing
from eca_jax.weights.load import Weights, read_weights

Picture = str | os.PathLike | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Placed:
    """An image on its canvas [H, W, 3], its size (h, w) there, its own size, and boxes' heights and widths over it."""

    canvas: np.ndarray
    size: tuple[int, int]
    original: tuple[int, int]
    scale: np.ndarray


class Detector:
    """A detector with its weights, compiled once for upright and once for broad images.

    Attributes:
      model, variables: as for `model.apply`.
      preprocessing: `image_size` is the short side in pixels; the long one is at most 5/3 of it (800 and 1333).
      class_names: one a label, or None.
    """

    def __init__(
        self,
        model: Network,
        variables: Mapping[str, Any],
        preprocessing: Preprocessing,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self.class_names = None if class_names is None else list(class_names)
        self.variables = jax.device_put(dict(variables))
        short = preprocessing.image_size
        self._layout = Layout(canvas_of(short), short, long_side(short), rounded=model.preset.rounded)
        self._detect = kernels.jit(lambda variables, images, sizes: model.apply(variables, images, sizes))

    @classmethod
    def load(cls, path: str | os.PathLike, model: str | None = None, **options: Any) -> "Detector":
        """From weights on disk; arguments and errors are those of `eca_jax.load`.

        Raises:
          ValueError: also where the model is no detector.
        """
        return cls.of(read_weights(path, model, **options))

    @classmethod
    def of(cls, weights: Weights) -> "Detector":
        """From weights that are read. Raises ValueError where they are no detector's."""
        if not isinstance(weights.model, Network):
            raise ValueError(f"{weights.card.model} is no detector")
        return cls(weights.model, weights.variables, weights.card.preprocessing, weights.card.class_names)

    def __call__(self, images: Picture | Sequence[Picture], *, threshold: float = 0.0) -> list[dict[str, np.ndarray]]:
        """Detections of each image, best first, as torchvision's detectors return them.

        Args:
          images: one or several: paths, Pillow images, or uint8 arrays [h, w, 3].
          threshold: scores below it are left out.

        Returns:
          for each image `boxes` float32 [K, 4], x1 y1 x2 y2 in its own pixels, `scores` float32 [K], `labels` int64
          [K], and where the model has masks, `masks` float32 [K, h, w], probabilities.

        Raises:
          FileNotFoundError, ValueError: an image is not there or cannot be read; one line.
        """
        several = isinstance(images, Sequence) and not isinstance(images, str)
        pictures: Any = images if several else [images]
        return list(self.stream(pictures, threshold=threshold))

    def stream(self, images: Sequence[Picture], *, threshold: float = 0.0) -> Iterator[dict[str, np.ndarray]]:
        """The same, one image after another."""
        for image in images:
            pixels = as_pixels(image)
            yield self._one(pixels, threshold)

    def _one(self, pixels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
        placed = self.place(pixels)
        result = self.select(self.run(placed), placed, threshold)
        if "masks" in result:
            ring, shape = self.model.preset.mask_ring, placed.original
            masks = [paste(m, b, shape, ring) for m, b in zip(result["masks"], result["boxes"], strict=True)]
            result["masks"] = np.stack(masks) if masks else np.zeros((0, *shape), np.float32)
        return result

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image is resized to."""
        return self._layout_of(height, width).size((height, width))

    def _layout_of(self, height: int, width: int) -> Layout:
        return self._layout.turned if self._layout.turns((height, width)) else self._layout

    def place(self, pixels: np.ndarray) -> Placed:
        """The first of three steps, on the host: uint8 [h, w, 3] on its canvas."""
        height, width = original = pixels.shape[0], pixels.shape[1]
        layout = self._layout_of(height, width)
        size = layout.size(original)
        return Placed(self._on_canvas(pixels, layout, size), size, original, layout.scale(original))

    def run(self, placed: Placed) -> dict[str, np.ndarray]:
        """The second step, on the device: what the network finds, in pixels of the canvas."""
        found = self._detect(self.variables, placed.canvas[None], np.array([placed.size], np.int32))
        return {key: np.asarray(value[0]) for key, value in found.items()}

    def select(self, found: dict[str, np.ndarray], placed: Placed, threshold: float) -> dict[str, np.ndarray]:
        """The third step: as `Detector` returns them, but that `masks` are those in the boxes, float32 [K, M, M]."""
        kept = found["valid"] & (found["scores"] >= threshold)
        result = {
            "boxes": found["boxes"][kept] / np.tile(placed.scale[::-1], 2),
            "scores": found["scores"][kept],
            "labels": found["labels"][kept].astype(np.int64),
        }
        return result | ({"masks": found["masks"][kept]} if "masks" in found else {})

    def _on_canvas(self, pixels: np.ndarray, layout: Layout, size: tuple[int, int]) -> np.ndarray:
        """The image on its canvas: normalised, resized and padded by zeros as torchvision's; or resized first."""
        how = self.preprocessing
        if layout.rounded:
            pixels = np.rint(resize_bilinear(pixels, size))
        mean, std = np.asarray(how.mean, np.float32), np.asarray(how.std, np.float32)
        normalised = (pixels.astype(np.float32) / 255 - mean) / std
        canvas = np.zeros((*layout.canvas, 3), np.float32)
        canvas[: size[0], : size[1]] = normalised if layout.rounded else resize_bilinear(normalised, size)
        return canvas.astype(jnp.dtype(self.model.dtype))


def as_pixels(image: Picture) -> np.ndarray:
    """uint8 [h, w, 3], turned as its EXIF orientation says; FileNotFoundError or ValueError in one line."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"an array of an image is uint8 [h, w, 3], not {image.dtype} {list(image.shape)}")
        return image
    if isinstance(image, Image.Image):
        return np.asarray(converted(image, upright=True))
    try:
        with Image.open(image) as opened:
            return np.asarray(converted(opened, upright=True))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {image}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{image} cannot be read as an image: {error}") from None
