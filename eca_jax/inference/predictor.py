"""Compiled inference: images of any kind in; probabilities, logits or features out."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from eca_jax import kernels, sharding
from eca_jax.data.brightness import unlike
from eca_jax.data.preprocess import ImageLike, eval_image
from eca_jax.inference.ranking import Prediction, rank, softmax
from eca_jax.models.inputs import on_pixels
from eca_jax.weights.load import Weights, read_weights, warn_of

BATCH_SIZES = (1, 8, 32)
# What a model can be asked for, and the fields of its module that make it return that.
OUTPUTS: dict[str, dict[str, Any]] = {
    "logits": {},
    "features": {"num_classes": 0},
    "feature_maps": {"features_only": True},
}
# Batches that the device is given before the oldest one's results are waited for: one runs while the next is copied.
IN_FLIGHT = 2

AnImage = TypeVar("AnImage", bound=ImageLike)


class Predictor:
    """A model compiled for a few batch sizes, on all local devices.

    An image is a path, encoded bytes, an open file, a PIL image, or an array uint8 [H, W, C]; each is resized, cropped
    and normalised as the weights' recipe says. C is 3, or what the model was made for: 1 for grey, 4 for RGBA. Methods
    take one image or any iterable of them, such as an array [N, H, W, C]; results are NumPy arrays whose first axis is
    the images'.

    Images go through in batches of the largest size; what is left is padded to the next compiled size, so that no
    more than one program is compiled for each size and output. Batches are decoded by threads while the device
    computes.

    Attributes:
      preprocessing: how images are prepared.
      brightness: of the images of the training, see `eca_jax.data.brightness`; None where nothing tells.
      class_names: one a class, or None.
      batch_sizes: ascending; each the asked-for size rounded up to a multiple of the local devices.
      sharding, variables: how batches are split over the devices, and the weights, on every device.
      programs: by output and batch size, the compiled (variables, uint8 images [size, S, S, C]) -> output.
    """

    def __init__(
        self, weights: Weights, *, batch_sizes: Sequence[int] = BATCH_SIZES, outputs: Sequence[str] = ("logits",)
    ):
        """Compiles the programs for `outputs`, of "logits", "features" and "feature_maps"; others at their first use.

        Raises ValueError for a batch size below 1 or an unknown output.
        """
        if not batch_sizes or min(batch_sizes) < 1:
            raise ValueError(f"batch sizes must be 1 or more, not {tuple(batch_sizes)}")
        mesh = sharding.data_mesh(jax.local_devices())
        self.sharding = sharding.split(mesh)
        self._model = weights.model
        self.variables = jax.device_put(weights.variables, sharding.replicated(mesh))
        self.programs: dict[tuple[str, int], Any] = {}
        self.preprocessing = weights.card.preprocessing
        self.brightness = weights.card.brightness
        self.class_names = weights.class_names
        self.batch_sizes = sorted({-(-size // mesh.size) * mesh.size for size in batch_sizes})
        for output in outputs:
            for size in self.batch_sizes:
                self._program(output, size)

    def __repr__(self) -> str:
        how, count = self.preprocessing, self._model.num_classes
        return f"<Predictor of {type(self._model).__name__}: {count} classes, {how.image_size} pixels>"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        model: str | None = None,
        *,
        batch_sizes: Sequence[int] = BATCH_SIZES,
        outputs: Sequence[str] = ("logits",),
        **options: Any,
    ) -> "Predictor":
        """A predictor of weights on disk.

        Args:
          path, model, **options: as for `eca_jax.load`; `dtype` is that of the computation, bfloat16 for TPUs and GPUs.
          batch_sizes, outputs: as for `Predictor`.

        Raises:
          FileNotFoundError, ValueError, ImportError: as `eca_jax.load` does.
        """
        weights = read_weights(path, model, **options)
        warn_of(path, weights)
        return cls(weights, batch_sizes=batch_sizes, outputs=outputs)

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """Logits, float32 [N, classes]. Raises FileNotFoundError or ValueError for an image that cannot be read."""
        return self._all(images, "logits")

    def probabilities(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """Softmax of the logits, float32 [N, classes]."""
        return softmax(self(images))

    def top(self, images: ImageLike | Iterable[ImageLike], k: int = 5) -> list[list[Prediction]]:
        """The `k` likeliest classes of each image, the likeliest first."""
        return [self.rank(logits, k) for logits in self(images)]

    def features(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """What the classifier is given: the last feature map's means, float32 [N, C]."""
        return self._all(images, "features")

    def feature_maps(self, images: ImageLike | Iterable[ImageLike]) -> tuple[np.ndarray, ...]:
        """Outputs of the four stages [N, H, W, C] at strides 4, 8, 16 and 32, in the computation's dtype."""
        return self._all(images, "feature_maps")

    def rank(self, logits: np.ndarray, k: int = 5) -> list[Prediction]:
        """The `k` likeliest classes of one image, given its logits [classes]."""
        return rank(logits, k, self.class_names)

    def stream(
        self,
        images: Iterable[AnImage],
        output: str = "logits",
        on_error: Callable[[AnImage, Exception], None] | None = None,
        on_doubt: Callable[[AnImage, str], None] | None = None,
    ) -> Iterator[tuple[AnImage, Any]]:
        """Yields each image with its result, in order; only a few batches are in memory at a time.

        Args:
          images: any number of them, read as they are needed.
          output: "logits", "features" or "feature_maps".
          on_error: called with an image that cannot be read and the error, and the image is left out; without it the
            error is raised.
          on_doubt: called with an image that is unlike those of the training, and how; its result comes all the same.
        """
        in_flight: deque[tuple[list[AnImage], Any]] = deque()
        for batch in self._prepared(images, on_error, on_doubt):
            in_flight.append(self._start(batch, output))
            if len(in_flight) > IN_FLIGHT:
                yield from _finish(*in_flight.popleft())
        while in_flight:
            yield from _finish(*in_flight.popleft())

    def _all(self, images: ImageLike | Iterable[ImageLike], output: str) -> Any:
        single = isinstance(images, str | os.PathLike | bytes | Image.Image) or getattr(images, "ndim", 0) in (2, 3)
        single = single or hasattr(images, "read")  # an open file, which could be iterated over, line by line
        several = cast(Iterable[ImageLike], [images] if single else images)
        results = [result for _, result in self.stream(several, output)]
        if not results:
            raise ValueError("there are no images to predict")
        return jax.tree.map(lambda *rows: np.stack(rows), *results)

    def _prepared(
        self,
        images: Iterable[AnImage],
        on_error: Callable[[AnImage, Exception], None] | None,
        on_doubt: Callable[[AnImage, str], None] | None,
    ) -> Iterator[list[tuple[AnImage, np.ndarray]]]:
        """Batches of the largest size and what is left, as (image, pixels), decoded two batches ahead."""
        size = self.batch_sizes[-1]
        images = iter(images)
        batch: list[tuple[AnImage, np.ndarray]] = []
        decoding: deque[tuple[AnImage, Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(os.cpu_count(), "decode") as pool:
            while True:
                for image in islice(images, 2 * size - len(decoding)):
                    decoding.append((image, pool.submit(self._prepare, image)))
                if not decoding:
                    break
                image, pixels = decoding.popleft()
                try:
                    batch.append((image, pixels.result()))
                    if on_doubt and self.brightness and (doubt := unlike(pixels.result(), self.brightness)):
                        on_doubt(image, doubt)
                except (OSError, ValueError) as error:
                    if on_error is None:
                        pool.shutdown(cancel_futures=True)
                        raise
                    on_error(image, error)
                if len(batch) == size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _prepare(self, image: ImageLike) -> np.ndarray:
        how = self.preprocessing
        # Upright: people's phones note down how they were held.
        return eval_image(
            image, how.image_size, how.resize_size, how.interpolation, upright=True, channels=how.channels
        )

    def _start(self, batch: list[tuple[AnImage, np.ndarray]], output: str) -> tuple[list[AnImage], Any]:
        """Hands a batch to the devices; the results are on their way when this returns."""
        size = next(size for size in self.batch_sizes if size >= len(batch))
        pixels = np.zeros((size, *batch[0][1].shape), np.uint8)
        for row, (_, image) in zip(pixels, batch, strict=False):
            row[:] = image
        result = self._program(output, size)(self.variables, jax.device_put(pixels, self.sharding))
        for leaf in jax.tree.leaves(result):
            leaf.copy_to_host_async()
        return [image for image, _ in batch], result

    def _program(self, output: str, size: int) -> Any:
        """The compiled (variables, uint8 images [size, S, S, C]) -> output."""
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, not {output!r}")
        if (output, size) not in self.programs:
            predict = on_pixels(self._model.clone(**OUTPUTS[output]), self.preprocessing)
            shape = (size, *self.preprocessing.shape)
            images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=self.sharding)
            program = kernels.jit(predict, rows=1, out_shardings=self.sharding)
            self.programs[output, size] = program.lower(self.variables, images).compile()
        return self.programs[output, size]


def _finish(images: list[AnImage], result: Any) -> Iterator[tuple[AnImage, Any]]:
    """Waits for a batch; without its padding, image by image."""
    rows = jax.tree.map(np.asarray, result)
    for index, image in enumerate(images):
        yield image, jax.tree.map(lambda leaf, index=index: leaf[index], rows)
