"""Image classification: its losses, mixing, top-1 and top-5, on the data sets of `eca_jax.data`."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eca_jax.config import plain
from eca_jax.data import OwnBatches, Source, eval_batches, load_source, train_batches
from eca_jax.data.batch import IMAGE, LABEL, MASK
from eca_jax.data.brightness import brightness
from eca_jax.models import Preprocessing, accepts, create_model, preprocessing
from eca_jax.models.inputs import RGB, normalize
from eca_jax.models.network import BY_ROW
from eca_jax.sharding import Shard
from eca_jax.tasks.accuracy import Accuracy, label_rank, metric_sums, nearest_label
from eca_jax.tasks.erase import Erase
from eca_jax.tasks.losses import binary_cross_entropy, cross_entropy, smoothed, soft_cross_entropy
from eca_jax.tasks.mix import Mix
from eca_jax.tasks.task import EPOCH, ROW, Batch, HostBatch, Sums, Variables
from eca_jax.tasks.warm_start import from_weights
from eca_jax.weights.card import Card
from eca_jax.weights.class_names import label_map
from eca_jax.weights.load import Weights, read_weights

# So that ImageNet need not be here for a plan.
NOMINAL_EXAMPLES = {"imagenet2012": 1_281_167}
# Images below which a network that starts from nothing is told what to expect.
_FEW = 20_000
NOMINAL_CLASSES = {"imagenet2012": 1000, "digits": 10}
LOSSES = ("softmax", "binary")
NO_MIX, NO_ERASE = Mix(), Erase()


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """A `Task`.

    Attributes:
      model: its logits are float32 [N, K].
      description: the card, but for the names of the data's classes.
      batch_size: examples in a global batch.
      open_source: opens the data; called once, when they are needed.
      crop_scale, crop_ratio, flip, augment, repeats, cache, cache_bytes, seed: see `eca_jax.data.train_batches`.
      label_smoothing: of the training loss.
      upright: pictures are turned as their EXIF orientation says.
      loss_name: "softmax", cross-entropy, or "binary", each class for itself; with `threshold` and `sum_classes`, see
        `eca_jax.tasks.losses`.
      mix, erase: what becomes of training images on the device.
      train_size: pixels of training images; None is that of evaluation.
      init_from: weights to start from; "" for none.
      labels: in evaluation, for each class of the data its index among the model's; None where they are the same.
    """

    model: nn.Module
    description: Card
    batch_size: int
    open_source: Callable[[], Source | OwnBatches]
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    augment: str = ""
    repeats: int = 1
    cache: str = ""
    cache_bytes: int = 0
    seed: int = 0
    label_smoothing: float = 0.0
    upright: bool = False
    loss_name: str = "softmax"
    threshold: float | None = None
    sum_classes: bool = False
    mix: Mix = NO_MIX
    erase: Erase = NO_ERASE
    train_size: int | None = None
    init_from: str = ""
    nominal_examples: int | None = None
    labels: Sequence[int] | None = None

    best, other_batches = "top1", ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Classification":
        """The task of a recipe; see `eca_jax.default_config` for its keys.

        Raises:
          ValueError: unknown model, override or dtype; BatchNorm groups that do not divide the batch; no preprocessing.
            Where the recipe leaves the model or the number of classes open, also what `weights.load.read_weights` and
            `load_source` raise: those are then read.
        """
        if config["dtype"] not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be 'float32' or 'bfloat16', not {config['dtype']!r}")
        dataset, data_dir = config["dataset"], config["data_dir"] or None
        open_source = functools.cache(lambda: load_source(dataset, data_dir, checked=("validation",)))
        start = _started_from(config)
        overrides = {key: value for key, value in plain(config["model_overrides"]).items() if value is not None}
        name, channels = start.model, {**start.options, **overrides}.get("in_chans", RGB)
        how = recipe_preprocessing(config, start.preprocessing.for_channels(channels))
        if how.channels != channels:
            raise ValueError(f"mean and std are of {how.channels} channels, the images of in_chans={channels}")
        train_size = config["image_size"] or start.preprocessing.image_size
        classes = config["num_classes"] or NOMINAL_CLASSES.get(dataset) or open_source().num_classes
        options = {**start.options, **overrides, "num_classes": classes}
        if accepts(name, "image_size") and "image_size" not in options:
            options["image_size"] = how.image_size
            if train_size != how.image_size:
                raise ValueError(f"{name} takes images of one size: leave eval_image_size alone")
        group, examples = config["bn_group_size"], config["batch_size"]
        grouped = {}
        if group and group < examples and accepts(name, "bn_group_size"):  # a batch no larger than a group is one group
            if examples % group:
                raise ValueError(f"bn_group_size={group} does not divide batch_size={examples}")
            grouped["bn_group_size"] = group
        loss, mix = plain(config["loss"]), plain(config["mix"])
        if loss["name"] not in LOSSES:
            raise ValueError(f"unknown loss {loss['name']!r}: choose one of {', '.join(LOSSES)}")
        mixes = bool(mix["mixup"] or mix["cutmix"])
        mix["group"] = mix["group"] or min(group or 64, examples)
        if mixes and examples % mix["group"]:
            raise ValueError(f"mixing in groups of {mix['group']} does not divide batch_size={examples}")
        if mixes and config["microbatches"] > 1 and group % mix["group"]:
            raise ValueError(f"mix.group={mix['group']} has to divide bn_group_size={group} with microbatches")
        return cls(
            model=create_model(name, dtype=jnp.dtype(config["dtype"]), **options, **grouped),
            description=Card(name, options, how, best=cls.best),
            batch_size=examples,
            open_source=open_source,
            crop_scale=tuple(config["crop_scale"]),
            crop_ratio=tuple(config["crop_ratio"]),
            flip=config["flip"],
            augment=config["augment"],
            repeats=config["repeated_augmentation"],
            cache=config["data_cache"],
            cache_bytes=int(config["data_cache_gb"] * 1e9),
            seed=config["seed"],
            label_smoothing=config["label_smoothing"],
            upright=config["upright"],
            loss_name=loss["name"],
            threshold=loss["threshold"],
            sum_classes=loss["sum_classes"],
            mix=Mix(**mix) if mixes else NO_MIX,
            erase=Erase(**plain(config["erase"])),
            train_size=train_size,
            init_from=config["init_from"],
            nominal_examples=NOMINAL_EXAMPLES.get(dataset),
        )

    @classmethod
    def of_weights(
        cls, weights: Weights, source: Source | OwnBatches, batch_size: int, *, upright: bool = False
    ) -> "Classification":
        """The task of judging weights on data. Classes go by their names wherever both sides have names.

        Raises:
          ValueError: the weights know no class of that name, or have fewer classes than the data; one line.
        """
        stored, num_classes = weights.card.class_names, weights.model.num_classes
        labels = label_map(source.class_names, stored, num_classes)
        if labels is None and num_classes < source.num_classes:
            raise ValueError(f"{source.name} has {source.num_classes} classes, the weights have {num_classes}")
        return cls(weights.model, weights.card, batch_size, lambda: source, labels=labels, upright=upright)

    @property
    def name(self) -> str:
        return self.description.model

    @property
    def preprocessing(self) -> Preprocessing:
        return self.description.preprocessing

    @functools.cached_property
    def source(self) -> Source | OwnBatches:
        """The data. Raises ValueError or OSError where they cannot be used; one line."""
        source = self.open_source()
        if self.labels is None and self.model.num_classes < source.num_classes:
            raise ValueError(
                f"num_classes={self.model.num_classes}, but {source.name} has {source.num_classes} classes: "
                f"set num_classes={source.num_classes}"
            )
        return source

    def found(self, num_classes: int | None = None) -> list[str]:
        """What the data are, for people, a line each, and what fits badly: `num_classes` is what the recipe sets."""
        lines = [] if isinstance(self.source, OwnBatches) else list(self.source.found)
        if num_classes and num_classes > self.source.num_classes:
            lines.append(
                f"num_classes={num_classes}, but there are {self.source.num_classes}: the others learn only never to be"
            )
        if self.source.name == "folder" and not self.init_from and self.train_examples < _FEW:
            lines.append(
                f"no weights to start from (init_from): {self.train_examples:,} images teach a network from nothing "
                "what differs in colour and texture, seldom what needs knowledge of things"
            )
        return lines

    @functools.cached_property
    def card(self) -> Card:
        names = tuple(self.source.class_names)
        bright = brightness(self.source, self.preprocessing.channels)
        return dataclasses.replace(self.description, class_names=names, brightness=bright)

    @property
    def train_examples(self) -> int:
        return self.source.num_examples("train")

    @property
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        count, size = self.batch_size, self.train_size or self.preprocessing.image_size
        return {
            IMAGE: jax.ShapeDtypeStruct((count, size, size, self.preprocessing.channels), jnp.uint8),
            LABEL: jax.ShapeDtypeStruct((count,), jnp.int32),
            MASK: jax.ShapeDtypeStruct((count,), jnp.float32),
        }

    def init(self, key: jax.Array) -> Variables:
        return dict(self.model.init(key, jnp.zeros((1, *self.preprocessing.shape)), train=False))

    def warm_start(self, fresh: Variables) -> tuple[Variables, str] | None:
        return from_weights(self.init_from, self.description, fresh) if self.init_from else None

    def loss(self, variables: Variables, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Variables, Sums]]:
        """The mean loss of the examples that count; sums of "loss", "top1", "top5" and "count".

        Where labels are mixed, the accuracies are of the label with the larger share.
        """
        images, labels, mask = batch[IMAGE], batch[LABEL], batch[MASK]
        in_parts = ROW in batch
        rows = batch[ROW] if in_parts else jnp.arange(len(labels))
        mixing, erasing, dropping = (jax.random.fold_in(key, operation) for operation in range(3))
        others, share = labels, jnp.ones(len(labels))
        if self.mix:
            draws = self.mix.draws(mixing, rows, *images.shape[1:3])
            # There is nothing to mix of an image that could not be decoded.
            whole = (mask > 0) & (self.mix.partners(mask) > 0)
            if self.mix.off_epoch:
                whole &= batch[EPOCH] < self.mix.off_epoch
            draws = draws._replace(kept=jnp.where(whole, draws.kept, 1.0), cut=draws.cut & whole)
            images, others, share = self.mix.images(images, draws), self.mix.partners(labels), draws.kept
        pixels = self._pixels({IMAGE: images})
        if self.erase:
            pixels = self.erase.images(pixels, erasing, rows)
        # Our networks draw by rows, from one key for all parts; a module of one's own would draw the same in each.
        streams = {"dropout" + BY_ROW: key, "drop_path": dropping}
        streams["dropout"] = jax.random.fold_in(key, rows[0]) if in_parts else key
        logits: Any
        logits, changed = self.model.apply(
            {**variables, "batch": {ROW: rows}} if in_parts else variables,
            pixels,
            train=True,
            mutable=["batch_stats"],
            rngs=streams,
        )
        losses = self._losses(logits, labels, others, share)
        sums = metric_sums(logits, jnp.where(share < 0.5, others, labels), losses, mask)
        return sums["loss"] / jnp.maximum(sums["count"], 1.0), (dict(changed), sums)

    def outputs(self, variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        """Plain cross-entropy float32 [N], the label's rank int32 [N] (0 is a right answer), and the mask."""
        logits: Any = self.model.apply(variables, self._pixels(batch), train=False)
        return self.judged(logits, batch)

    def judged(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """`outputs`, of the logits [N, K]."""
        labels = nearest_label(logits, batch[LABEL])
        return {
            "loss": cross_entropy(logits, labels),
            "rank": label_rank(logits, labels),
            MASK: batch[MASK],
        }

    def train_batches(self, start_step: int, shard: Shard) -> Iterator[HostBatch]:
        red, green, blue = (round(255 * value) for value in self.preprocessing.for_channels(RGB).mean)
        return train_batches(
            self.source,
            batch_size=self.batch_size,
            image_size=self.train_size or self.preprocessing.image_size,
            seed=self.seed,
            start_step=start_step,
            crop_scale=self.crop_scale,
            crop_ratio=self.crop_ratio,
            flip=self.flip,
            interpolation=self.preprocessing.interpolation,
            augment=self.augment,
            repeats=self.repeats,
            cache=self.cache,
            cache_bytes=self.cache_bytes,
            fill=(red, green, blue),
            upright=self.upright,
            channels=self.preprocessing.channels,
            process_index=shard.index,
            process_count=shard.count,
        )

    def eval_batches(self, split: str, shard: Shard) -> Iterator[HostBatch]:
        batches = eval_batches(
            self.source,
            split,
            batch_size=self.batch_size,
            image_size=self.preprocessing.image_size,
            resize_size=self.preprocessing.resize_size,
            interpolation=self.preprocessing.interpolation,
            upright=self.upright,
            channels=self.preprocessing.channels,
            process_index=shard.index,
            process_count=shard.count,
        )
        table = None if self.labels is None else np.asarray(self.labels, np.int32)
        return (for_model(batch, table) for batch in batches)

    def meter(self) -> Accuracy:
        return Accuracy()

    def describe(self, metrics: Mapping[str, Any]) -> str:
        return f"top-1 {metrics['top1']:.2%}, top-5 {metrics['top5']:.2%}, loss {metrics['loss']:.4f}"

    def _losses(self, logits: jax.Array, labels: jax.Array, others: jax.Array, share: jax.Array) -> jax.Array:
        if self.loss_name == "softmax" and not self.mix:
            return cross_entropy(logits, labels, self.label_smoothing)
        classes = logits.shape[1]
        targets = smoothed(labels, classes, self.label_smoothing)
        if self.mix:
            mixed_in = smoothed(others, classes, self.label_smoothing)
            targets = targets * share[:, None] + mixed_in * (1.0 - share[:, None])
        if self.loss_name == "softmax":
            return soft_cross_entropy(logits, targets)
        return binary_cross_entropy(logits, targets, threshold=self.threshold, sum_classes=self.sum_classes)

    def _pixels(self, batch: Batch) -> jax.Array:
        return normalize(batch[IMAGE], self.preprocessing.mean, self.preprocessing.std, self.model.dtype)


def for_model(batch: HostBatch, table: np.ndarray | None) -> HostBatch:
    """A batch with the model's numbers of the classes; an example of several right classes counts if it has any."""
    label, mask = batch[LABEL], batch[MASK]
    if table is not None:
        label = np.where(label < 0, -1, table[label])
    if label.ndim == 2:
        mask = mask * (label >= 0).any(axis=1)
    return {**batch, LABEL: label, MASK: mask}


def recipe_preprocessing(config: Mapping[str, Any], own: Preprocessing) -> Preprocessing:
    """The model's own preprocessing of evaluation, but for what the recipe sets. ValueError for what cannot be."""
    keys = ("image_size", "crop_pct", "interpolation", "mean", "std")
    chosen = {key: config[key] for key in keys if config[key] is not None}
    if config["eval_image_size"] is not None:
        chosen["image_size"] = config["eval_image_size"]
    chosen = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in chosen.items()}
    return dataclasses.replace(own, **chosen)


def _started_from(config: Mapping[str, Any]) -> Card:
    """The recipe's model, or the one of the weights that it starts from, with that one's options and preprocessing."""
    if config["model"]:
        return Card(config["model"], {}, preprocessing(config["model"]))
    if not config["init_from"]:
        raise ValueError("the recipe has no model: set model, or init_from, whose model it then is")
    return read_weights(config["init_from"]).card
