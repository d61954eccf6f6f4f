"""The models that a server answers with: programs compiled for a few batch sizes, and what prepares images."""

import dataclasses
import io
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from eca_jax.data.preprocess import eval_image
from eca_jax.data.resize import resized_shape
from eca_jax.inference.exported import load_exported
from eca_jax.serving.limits import Refused, busy

# Those that browsers show. PIL reads many more, and starts other programs for some, such as EPS.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF")
OUTPUTS = ("logits", "features")
TIMED = 2  # the shorter of so many runs is how long a batch takes

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a model is read from.

    Attributes:
      path: what `eca_jax.load` reads, or an exported `.npz`.
      name: under which it is served; None takes the model's own.
      options: of `eca_jax.load` besides the path: `model`, `dtype`, `step`, `ema`, ...; none for an exported file.
      class_names: instead of those that lie with the weights.
    """

    path: str
    name: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_names: Sequence[str] | None = None


class Compiled:
    """A program that pads rows, uint8 [S, S, 3], to the batch sizes that it is compiled for.

    Attributes:
      seconds: by batch size, ascending, how long a batch took when nothing else ran.
      width: of a result's one axis, such as the number of classes.
    """

    def __init__(self, run: Callable[[np.ndarray], Any], sizes: Sequence[int], image_size: int):
        """
        Args:
          run: uint8 [size, S, S, 3] -> [size, width], for each of the sizes; called here, to compile and to be timed.
        """
        self._run, self._shape = run, (image_size, image_size, 3)
        self.seconds: dict[int, float] = dict.fromkeys(sorted(sizes), 0.0)
        for size in self.seconds:
            rows = [np.zeros(self._shape, np.uint8)] * size
            self.width = self(rows).shape[-1]
            self.seconds[size] = min(self._timed(rows) for _ in range(TIMED))

    def __call__(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """One result for each row."""
        size = next(size for size in self.seconds if size >= len(rows))
        pixels = np.zeros((size, *self._shape), np.uint8)
        for place, row in zip(pixels, rows, strict=False):
            place[:] = row
        return np.asarray(self._run(pixels))[: len(rows)]

    def _timed(self, rows: Sequence[np.ndarray]) -> float:
        started = time.perf_counter()
        self(rows)
        return time.perf_counter() - started


@dataclasses.dataclass(frozen=True)
class Served:
    """A model at work.

    Attributes:
      name: under which it is served.
      model: the architecture's.
      version: of its weights: a workdir's step, else "1".
      class_names: one a class, or None.
      image_size, resize_size, interpolation: how images are prepared; see `eca_jax.data.eval_image`.
      programs: by what they return, of OUTPUTS.
    """

    name: str
    model: str
    version: str
    class_names: list[str] | None
    image_size: int
    resize_size: int
    interpolation: str
    programs: Mapping[str, Compiled]

    def prepare(self, encoded: bytes, max_pixels: int) -> np.ndarray:
        """uint8 [S, S, 3] of an image file, as `Predictor` prepares it.

        Raises Refused: not an image of IMAGE_FORMATS, damaged, or too large.
        """
        try:
            opened = Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS)
        except UnidentifiedImageError:
            raise Refused(400, f"not an image of a kind that is read ({', '.join(IMAGE_FORMATS)})") from None
        except MemoryError:
            raise
        except Exception as error:  # Pillow's readers raise anything for damaged files
            raise Refused(400, f"cannot decode the image: {error}") from None
        with opened:
            # A sliver of an image is small as a file and huge once its short side is resized.
            for (height, width), what in (
                ((opened.height, opened.width), "is"),
                (resized_shape(opened.height, opened.width, self.resize_size), "would be resized to"),
            ):
                if height * width > max_pixels:
                    raise Refused(413, f"the image {what} {width}x{height} pixels, of at most {max_pixels} in all")
            try:
                return eval_image(opened, self.image_size, self.resize_size, self.interpolation, upright=True)
            except ValueError as error:
                raise Refused(400, str(error)) from None


class Models:
    """The models by name; a reader sees an old model or a new one, never a mixture.

    Attributes:
      ready: all are loaded and compiled.
    """

    def __init__(self, sources: Sequence[Source], *, batch_sizes: Sequence[int], outputs: Sequence[str] = ("logits",)):
        """Raises ValueError where there is no source, for a batch size below 1, and for unknown outputs."""
        if not sources:
            raise ValueError("there is no model to serve")
        if not batch_sizes or min(batch_sizes) < 1:
            raise ValueError(f"batch sizes must be 1 or more, not {tuple(batch_sizes)}")
        if unknown := set(outputs) - set(OUTPUTS):
            raise ValueError(f"outputs are some of {', '.join(OUTPUTS)}, not {', '.join(sorted(unknown))}")
        self.ready = False
        self._sources, self._batch_sizes, self._outputs = tuple(sources), tuple(batch_sizes), tuple(outputs)
        self._served: dict[str, Served] = {}

    def load(self) -> None:
        """Reads and compiles all models.

        Raises:
          FileNotFoundError, ValueError, ImportError: as `eca_jax.load` and `load_exported` do; two of one name.
        """
        for source in self._sources:
            started = time.monotonic()
            served = self._load(source)
            if served.name in self._served:
                raise ValueError(f"two models are called {served.name}: give them names")
            self._served[served.name] = served
            log.info("%s (%s): ready in %.1f s", served.name, source.path, time.monotonic() - started)
        self.ready = True

    def all(self) -> list[Served]:
        """The models, the default one first."""
        return list(self._served.values())

    def get(self, name: str | None = None) -> Served:
        """The model of a name, the first one for None. Raises Refused: not compiled yet, or no such model."""
        if not self.ready:
            raise busy("the models are being compiled")
        if name is None:
            return next(iter(self._served.values()))
        if name not in self._served:
            raise Refused(404, f"there is no model {name[:80]!r}; there is {', '.join(self._served)}")
        return self._served[name]

    def reload(self) -> None:
        """Takes the best checkpoint of each workdir that has a better one now.

        Raises:
          FileNotFoundError, ValueError, OSError: as the reading does; the models stay as they were.
        """
        for name, source in zip(list(self._served), self._sources, strict=True):
            before = self._served[name]
            if isinstance(source.options.get("step"), int) or _is_exported(source.path):
                continue
            best = _best_step(source.path)
            if best is not None and str(best) != before.version:
                self._served[name] = self._load(dataclasses.replace(source, name=name))
                log.info("%s: step %s instead of %s", name, self._served[name].version, before.version)

    def _load(self, source: Source) -> Served:
        load = _load_exported if _is_exported(source.path) else _load_weights
        return load(source, self._batch_sizes, self._outputs)


def _is_exported(path: str | os.PathLike) -> bool:
    return os.fspath(path).endswith(".npz")


def _load_exported(source: Source, batch_sizes: Sequence[int], outputs: Sequence[str]) -> Served:
    if source.options or source.class_names is not None:
        chosen = [*source.options, *(["class_names"] if source.class_names is not None else [])]
        raise ValueError(f"{source.path} is an exported model: {', '.join(chosen)} cannot be chosen any more")
    if set(outputs) != {"logits"}:
        raise ValueError(f"{source.path} is an exported model: it returns logits and nothing else")
    exported = load_exported(source.path)
    metadata, how = exported.metadata, exported.metadata["preprocessing"]
    if metadata["input"] != "uint8":
        raise ValueError(f"{source.path} takes {metadata['input']} images; a server needs one exported for uint8")
    return Served(
        name=source.name or metadata["model"],
        model=metadata["model"],
        version="1",
        class_names=metadata["class_names"],
        image_size=how["image_size"],
        resize_size=how["resize_size"],
        interpolation=how["interpolation"],
        programs={"logits": Compiled(exported, batch_sizes, how["image_size"])},
    )


def _load_weights(source: Source, batch_sizes: Sequence[int], outputs: Sequence[str]) -> Served:
    import jax  # with Flax, which an exported model does without

    from eca_jax.inference.predictor import Predictor
    from eca_jax.models.detection.detector import Detector
    from eca_jax.weights.load import read_weights

    weights = read_weights(source.path, **source.options)
    if isinstance(weights.model, Detector):
        raise ValueError(f"{source.path} holds {weights.card.model}, a detector: what is served are classifiers")
    for remark in weights.remarks:
        log.warning("%s: %s", source.path, remark)
    if source.class_names is not None:
        weights = weights.with_class_names(source.class_names)
    predictor = Predictor(weights, batch_sizes=batch_sizes, outputs=outputs)

    def running(output: str) -> Callable[[np.ndarray], Any]:
        def run(pixels: np.ndarray) -> Any:
            program = predictor.programs[output, len(pixels)]
            return program(predictor.variables, jax.device_put(pixels, predictor.sharding))

        return run

    how = weights.card.preprocessing
    return Served(
        name=source.name or weights.card.model,
        model=weights.card.model,
        version=str(1 if weights.step is None else weights.step),
        class_names=predictor.class_names,
        image_size=how.image_size,
        resize_size=how.resize_size,
        interpolation=how.interpolation,
        programs={output: Compiled(running(output), predictor.batch_sizes, how.image_size) for output in outputs},
    )


def _best_step(path: str | os.PathLike) -> int | None:
    """Of a training workdir; None for anything else."""
    from eca_jax.files import absolute
    from eca_jax.weights import store
    from eca_jax.weights.card import Card

    directory = absolute(path)
    if not (directory / store.CHECKPOINTS).is_dir():
        return None
    return store.best_step(directory, Card.from_json(store.read_config(directory)).best)
