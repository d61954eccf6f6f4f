"""The models that a server answers with: programs compiled for a few batch sizes, and what prepares images."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from eca_jax.data.preprocess import eval_image
from eca_jax.data.resize import center_offset, resized_shape
from eca_jax.inference.exported import load_exported
from eca_jax.serving.images import open_image, upright_size
from eca_jax.serving.limits import Refused, busy

if TYPE_CHECKING:  # with Flax, which an exported model does without
    from eca_jax.serving.detection import Detection
    from eca_jax.serving.explanation import Explanation
    from eca_jax.weights.load import Weights

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
    """A program that pads rows, uint8 [S, S, C], to the batch sizes that it is compiled for.

    Attributes:
      seconds: by batch size, ascending, how long a batch took; on a CPU, its CPU time: what else the machine does must
        not decide which size is the best.
      width: of a result's one axis, such as the number of classes.
    """

    def __init__(self, run: Callable[[np.ndarray], Any], sizes: Sequence[int], shape: tuple[int, int, int]):
        """
        Args:
          run: uint8 [size, S, S, C] -> [size, width], for each of the sizes; called here, to compile and to be timed.
          shape: [S, S, C].
        """
        self._run, self._shape = run, shape
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
        clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
        started = clock()
        self(rows)
        return clock() - started


@dataclasses.dataclass(frozen=True)
class Served:
    """A model at work.

    Attributes:
      name: under which it is served.
      model: the architecture's.
      version: of its weights: a workdir's step, else "1".
      class_names: one a class, or None.
      image_size, resize_size, interpolation, channels: how images are prepared; see `eca_jax.data.eval_image`.
      programs: by what they return, of OUTPUTS; a detector has none.
      detection: a detector's program.
      explanation: Grad-CAM's program, or None.
    """

    name: str
    model: str
    version: str
    class_names: list[str] | None
    image_size: int
    resize_size: int
    interpolation: str
    channels: int
    programs: Mapping[str, Compiled]
    detection: "Detection | None" = None
    explanation: "Explanation | None" = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a prepared image: [S, S, C]."""
        return (self.image_size, self.image_size, self.channels)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        return resized_shape(height, width, self.resize_size)

    def prepare(self, encoded: bytes, max_pixels: int) -> np.ndarray:
        """uint8 [S, S, C] of an image file, as `Predictor` prepares it. Raises Refused: see `open_image`."""
        with open_image(encoded, max_pixels, self._resized) as opened:
            try:
                return eval_image(
                    opened,
                    self.image_size,
                    self.resize_size,
                    self.interpolation,
                    upright=True,
                    channels=self.channels,
                )
            except ValueError as error:
                raise Refused(400, str(error)) from None

    def seen(self, encoded: bytes, max_pixels: int) -> list[float]:
        """x1 y1 x2 y2 of the square that `prepare` crops, in the upright image's own pixels."""
        with open_image(encoded, max_pixels, self._resized) as opened:
            height, width = upright_size(opened)
        rows, columns = resized_shape(height, width, self.resize_size)
        left, top = center_offset(columns, self.image_size), center_offset(rows, self.image_size)
        corners = (left, top, left + self.image_size, top + self.image_size)
        return [corner * scale for corner, scale in zip(corners, 2 * (width / columns, height / rows), strict=True)]


class Models:
    """The models by name; a reader sees an old model or a new one, never a mixture.

    Attributes:
      ready: all are loaded and compiled.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        batch_sizes: Sequence[int],
        outputs: Sequence[str] = ("logits",),
        grad_cam: bool = False,
    ):
        """
        Args:
          batch_sizes, outputs: of classifiers; a detector takes one image at a time.
          grad_cam: classifiers whose weights are read say where a class is seen, too; exported ones cannot.

        Raises:
          ValueError: there is no source, a batch size is below 1, or an output unknown.
        """
        if not sources:
            raise ValueError("there is no model to serve")
        if not batch_sizes or min(batch_sizes) < 1:
            raise ValueError(f"batch sizes must be 1 or more, not {tuple(batch_sizes)}")
        if unknown := set(outputs) - set(OUTPUTS):
            raise ValueError(f"outputs are some of {', '.join(OUTPUTS)}, not {', '.join(sorted(unknown))}")
        self.ready = False
        self._sources, self._batch_sizes, self._outputs = tuple(sources), tuple(batch_sizes), tuple(outputs)
        self._grad_cam = grad_cam
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
        if _is_exported(source.path):
            return _load_exported(source, self._batch_sizes, self._outputs)
        return _load_weights(source, self._batch_sizes, self._outputs, self._grad_cam)


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
        channels=(channels := len(how["mean"])),
        programs={"logits": Compiled(exported, batch_sizes, (how["image_size"], how["image_size"], channels))},
    )


def _load_weights(source: Source, batch_sizes: Sequence[int], outputs: Sequence[str], grad_cam: bool) -> Served:
    from eca_jax.models.detection.detector import Detector
    from eca_jax.weights.load import read_weights

    weights = read_weights(source.path, **source.options)
    for remark in weights.remarks:
        log.warning("%s: %s", source.path, remark)
    if source.class_names is not None:
        weights = weights.with_class_names(source.class_names)
    how = weights.card.preprocessing
    served = Served(
        name=source.name or weights.card.model,
        model=weights.card.model,
        version=str(1 if weights.step is None else weights.step),
        class_names=weights.class_names,
        image_size=how.image_size,
        resize_size=how.resize_size,
        interpolation=how.interpolation,
        channels=how.channels,
        programs={},
    )
    if isinstance(weights.model, Detector):
        return dataclasses.replace(served, detection=_detection(weights))
    programs = _programs(weights, batch_sizes, outputs)
    return dataclasses.replace(served, programs=programs, explanation=_explanation(weights) if grad_cam else None)


def _detection(weights: "Weights") -> "Detection":
    from eca_jax.inference.detector import Detector
    from eca_jax.serving.detection import Detection

    return Detection(Detector.of(weights))


def _explanation(weights: "Weights") -> "Explanation | None":
    from eca_jax.serving.explanation import Explanation

    try:
        return Explanation(weights)
    except ValueError as error:
        log.warning("%s is served without grad_cam: %s", weights.card.model, error)
        return None


def _programs(weights: "Weights", batch_sizes: Sequence[int], outputs: Sequence[str]) -> dict[str, Compiled]:
    from eca_jax.inference.predictor import Predictor

    predictor = Predictor(weights, batch_sizes=batch_sizes, outputs=outputs)

    def running(output: str) -> Callable[[np.ndarray], Any]:
        def run(pixels: np.ndarray) -> Any:
            program = predictor.programs[output, len(pixels)]
            return program(predictor.variables, jax.device_put(pixels, predictor.sharding))

        return run

    shape = weights.card.preprocessing.shape
    return {output: Compiled(running(output), predictor.batch_sizes, shape) for output in outputs}


def _best_step(path: str | os.PathLike) -> int | None:
    """Of a training workdir; None for anything else."""
    from eca_jax.files import absolute
    from eca_jax.weights import store
    from eca_jax.weights.card import Card

    directory = absolute(path)
    if not (directory / store.CHECKPOINTS).is_dir():
        return None
    return store.best_step(directory, Card.from_json(store.read_config(directory)).best)
