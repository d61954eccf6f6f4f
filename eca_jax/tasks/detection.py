"""Detection and instance segmentation: the detectors' own losses, COCO's figures."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eca_jax.config import plain
from eca_jax.data import objects
from eca_jax.data.batch import IMAGE, MASK
from eca_jax.data.objects import BOXES, LABELS, MASKS, NUMBER, SCALE, SIZE, VALID, Layout
from eca_jax.data.sources.checked import ObjectSource
from eca_jax.data.sources.coco import CocoSource
from eca_jax.data.sources.coco_records import TfdsCocoSource
from eca_jax.data.sources.shapes import ShapesSource
from eca_jax.data.sources.yolo import YoloSource
from eca_jax.models import create_model, preprocessing
from eca_jax.models.detection.canvas import MULTIPLE, canvas_of, long_side
from eca_jax.models.detection.detector import Detector
from eca_jax.models.detection.rcnn import MaskRCNN
from eca_jax.models.detection.rules import rules
from eca_jax.models.inputs import normalize
from eca_jax.sharding import Shard
from eca_jax.tasks.coco import CocoMeter
from eca_jax.tasks.task import Batch, HostBatch, Sums, Variables
from eca_jax.tasks.warm_start import from_weights
from eca_jax.weights.card import Card
from eca_jax.weights.load import Weights

# So that COCO need not be here for a plan: training images with objects.
NOMINAL_EXAMPLES = {"coco": 117_266, "coco/2017": 117_266}
MASK_CROP = 112


@dataclasses.dataclass(frozen=True, eq=False)
class Detection:
    """A `Task`.

    Attributes:
      model: a detector.
      description: the card, but for the names of the data's classes.
      batch_size: examples in a global batch.
      open_source: opens the data; called once, when they are needed.
      layout: of the batches.
      flip, seed: see `eca_jax.data.objects.train_batches`.
      init_from: weights to start from; "" for none.
    """

    model: Detector
    description: Card
    batch_size: int
    open_source: Callable[[], ObjectSource]
    layout: Layout
    flip: bool = True
    seed: int = 0
    init_from: str = ""
    nominal_examples: int | None = None

    best = "box_ap"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Detection":
        """The task of a recipe; see `eca_jax.default_config` for its keys.

        Raises:
          ValueError: unknown model, override, data set or dtype, or a canvas that is no multiple of 32.
        """
        if config["dtype"] not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be 'float32' or 'bfloat16', not {config['dtype']!r}")
        overrides = {key: value for key, value in plain(config["model_overrides"]).items() if value is not None}
        options = {"num_classes": config["num_classes"], **overrides}
        model = create_model(config["model"], dtype=jnp.dtype(config["dtype"]), **options)
        if not isinstance(model, Detector):
            raise ValueError(f"{config['model']} is no detector, which task 'detection' trains")
        how, shape = preprocessing(config["model"]), plain(config["detection"])
        short = config["image_size"] or how.image_size
        how = dataclasses.replace(how, image_size=short)
        if any(side % MULTIPLE for side in shape["canvas"]):
            raise ValueError(f"canvas={tuple(shape['canvas'])} has to be of multiples of {MULTIPLE}")
        return cls(
            model=model,
            description=Card(config["model"], options, how, task="detection", best=cls.best),
            batch_size=config["batch_size"],
            open_source=functools.partial(open_source, config["dataset"], config["data_dir"], model, shape["canvas"]),
            layout=Layout(
                tuple(shape["canvas"]),
                short,
                long_side(short),
                shape["objects"],
                MASK_CROP if isinstance(model, MaskRCNN) else 0,
                model.preset.rounded,
            ),
            flip=config["flip"],
            seed=config["seed"],
            init_from=config["init_from"],
            nominal_examples=NOMINAL_EXAMPLES.get(config["dataset"]),
        )

    @classmethod
    def of_weights(cls, weights: Weights, dataset: str, data_dir: str, batch_size: int) -> "Detection":
        """The task of judging weights on data, each image as large as the weights' preprocessing has it.

        Raises:
          ValueError: the weights are no detector's, or there is no such data set.
        """
        model, how = weights.model, weights.card.preprocessing
        if not isinstance(model, Detector):
            raise ValueError(f"{weights.card.model} is no detector")
        short = how.image_size
        return cls(
            model=model,
            description=weights.card,
            batch_size=batch_size,
            open_source=functools.partial(open_source, dataset, data_dir, model, (short, short), ("validation",)),
            layout=Layout(canvas_of(short), short, long_side(short), rounded=model.preset.rounded),
        )

    @property
    def name(self) -> str:
        return self.description.model

    @functools.cached_property
    def source(self) -> ObjectSource:
        """The data. Raises ValueError or OSError where they cannot be used; one line."""
        source = self.open_source()
        if self.model.num_classes < len(source.class_names):
            count = len(source.class_names)
            raise ValueError(
                f"num_classes={self.model.num_classes}, but {source.name} has {count} with the background: "
                f"set num_classes={count}"
            )
        return source

    @property
    def card(self) -> Card:
        names = tuple(self.source.class_names)
        return dataclasses.replace(self.description, class_names=names)

    @property
    def train_examples(self) -> int:
        return len(self.source.examples("train"))

    @property
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        return self._batch_of(self.layout)

    @property
    def other_batches(self) -> tuple[dict[str, jax.ShapeDtypeStruct], ...]:
        """The batch on the canvas turned; not where that is the same, nor where open data have no image for it."""
        opened = "source" in self.__dict__
        if opened and not any(self.layout.turns(example.size) for example in self.source.examples("train")):
            return ()
        turned = self.layout.turned
        return () if turned == self.layout else (self._batch_of(turned),)

    def _batch_of(self, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
        rows = objects.blank(layout)
        count = self.batch_size
        return {key: jax.ShapeDtypeStruct((count, *np.shape(row)), np.asarray(row).dtype) for key, row in rows.items()}

    def init(self, key: jax.Array) -> Variables:
        return dict(self.model.init(key, jnp.zeros((1, 64, 64, 3)), train=False))

    def warm_start(self, fresh: Variables) -> tuple[Variables, str] | None:
        return from_weights(self.init_from, self.description, fresh) if self.init_from else None

    def loss(self, variables: Variables, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Variables, Sums]]:
        """The sum of the detector's losses; "loss" and each loss by its name, times "count"."""
        counts = batch[MASK] > 0
        truths = {name: batch[name] for name in (BOXES, LABELS, VALID, MASKS) if name in batch}
        truths[VALID] = truths[VALID] & counts[:, None]
        losses: Any
        losses, changed = self.model.apply(
            variables,
            self._pixels(batch),
            batch[SIZE],
            truths,
            key,
            method="losses",
            mutable=["batch_stats"] if self.model.batch_statistics else [],
        )
        loss = sum(losses.values())
        count = jnp.sum(batch[MASK])
        return loss, (
            dict(changed),
            {name: value * count for name, value in ({"loss": loss} | losses).items()} | {"count": count},
        )

    def outputs(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Detections in pixels of the original images, and which images they are of."""
        found: Any = self.model.apply(variables, self._pixels(batch), batch[SIZE])
        boxes = found["boxes"] / jnp.tile(batch[SCALE][:, ::-1], 2)[:, None]
        kept = {key: found[key] for key in ("scores", "labels", "valid", "masks") if key in found}
        return {"boxes": boxes, **kept, NUMBER: batch[NUMBER], MASK: batch[MASK]}

    def train_batches(self, start_step: int, shard: Shard) -> Iterator[HostBatch]:
        return objects.train_batches(
            self.source,
            self.layout,
            batch_size=self.batch_size,
            seed=self.seed,
            start_step=start_step,
            flip=self.flip,
            process_index=shard.index,
            process_count=shard.count,
        )

    def eval_batches(self, split: str, shard: Shard) -> Iterator[HostBatch]:
        without_masks = dataclasses.replace(self.layout, mask_size=0)
        return objects.eval_batches(
            self.source,
            split,
            without_masks,
            batch_size=self.batch_size,
            process_index=shard.index,
            process_count=shard.count,
        )

    def meter(self) -> CocoMeter:
        return CocoMeter(self.source, "validation", self.model.preset)

    def describe(self, metrics: Mapping[str, Any]) -> str:
        if "box_ap" not in metrics:
            return f"loss {metrics['loss']:.4f}"
        masks = f", mask AP {metrics['mask_ap']:.1%}" if "mask_ap" in metrics else ""
        return f"box AP {metrics['box_ap']:.1%}{masks}"

    def _pixels(self, batch: Batch) -> jax.Array:
        how = self.description.preprocessing
        return normalize(batch[IMAGE], how.mean, how.std, self.model.dtype)


def open_source(
    dataset: str,
    data_dir: str,
    model: Detector,
    canvas: tuple[int, int],
    splits: Sequence[str] = ("train", "validation"),
) -> ObjectSource:
    """The data set of a recipe: "coco" or "yolo", a folder in that layout, TFDS's "coco/2017", or drawn "shapes".

    `splits` are those that have to be there; shapes fill the canvas.

    Raises ValueError for another name, and as `CocoSource` does.
    """
    if dataset == "shapes":
        return ShapesSource((canvas[0], canvas[1]))
    by_order = rules(model.rules).name == "mmdet1"
    if dataset == TfdsCocoSource.name:
        return TfdsCocoSource(data_dir, by_order=by_order, splits=splits)
    if dataset not in ("coco", "yolo"):
        raise ValueError(f"unknown dataset {dataset!r} of objects: choose coco, coco/2017, yolo or shapes")
    if not data_dir:
        holds = {"coco": "annotations/instances_train2017.json", "yolo": "images/train, labels/train and classes.txt"}
        raise ValueError(f"dataset {dataset!r} needs data_dir: a folder with {holds[dataset]}")
    if dataset == "yolo":
        return YoloSource(data_dir, splits=splits)
    return CocoSource(data_dir, by_order=by_order, splits=splits)
