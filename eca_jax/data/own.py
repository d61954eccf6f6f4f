"""Data that somebody else's code decodes and batches: Grain's iterators, say, or a generator."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from eca_jax.data.batch import IMAGE, LABEL, MASK


class BatchMaker(Protocol):
    """What a class of one's own has to have; `config.dataset="MODULE:CLASS"` names it, `CLASS(data_dir)` makes it.

    Batches are dicts of "image" uint8 [b, image_size, image_size, C], "label" integers [b] and, where some rows do not
    count, "mask" [b], 0 for those; b = batch_size / process_count, and C is the model's `in_chans`, any number.
    Cropping and augmentation are its own business, and so are threads.
    """

    class_names: Sequence[str]

    def num_examples(self, split: str) -> int:
        """Examples of "train" or "validation". An epoch has as many full batches as "train" has."""

    def train_batches(
        self, *, batch_size: int, image_size: int, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[Mapping[str, Any]]:
        """Endless: this process's rows of the global batches of the steps `start_step`, `start_step` + 1, ...

        A resumed run is the same run if this is a pure function of its arguments.
        """

    def eval_batches(
        self, split: str, *, batch_size: int, image_size: int, process_index: int, process_count: int
    ) -> Iterator[Mapping[str, Any]]:
        """Every example once over all processes, in as many batches in each; the last may have fewer rows."""


class OwnBatches:
    """A `BatchMaker` where a data set is expected, which looks at each batch before it goes on.

    Raises:
      ValueError: the class lacks something of the contract; one line says what.
    """

    def __init__(self, name: str, maker: BatchMaker):
        methods = ("num_examples", "train_batches", "eval_batches")
        missing = [method for method in methods if not callable(getattr(maker, method, None))]
        missing += [] if hasattr(maker, "class_names") else ["class_names"]
        if missing:
            raise ValueError(f"{name} makes no batches: it has no {missing[0]}, see eca_jax.data.own.BatchMaker")
        self.name = name
        self.class_names = list(maker.class_names)
        self.num_classes = len(self.class_names)
        self._maker = maker

    def num_examples(self, split: str) -> int:
        """Number of examples, as the class says it."""
        return self._maker.num_examples(split)

    def describe(self, split: str, index: int) -> str:
        """The class's name and the number."""
        return f"{split} example {index} of {self.name}"

    def check(self, split: str) -> None:
        """Nothing: how the images are stored is not known here."""

    def train_batches(
        self,
        *,
        batch_size: int,
        image_size: int,
        seed: int,
        start_step: int,
        channels: int,
        process_index: int,
        process_count: int,
    ) -> Iterator[dict[str, np.ndarray]]:
        """See `BatchMaker`. Raises ValueError for a batch of another form, and where the batches end."""
        batches = self._maker.train_batches(
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )
        count = 0
        for batch in batches:
            yield self._checked(batch, (batch_size // process_count, image_size, image_size, channels))
            count += 1
        raise ValueError(f"{self.name}: training batches have to be endless, and ended after {count}")

    def eval_batches(
        self, split: str, *, batch_size: int, image_size: int, channels: int, process_index: int, process_count: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """See `BatchMaker`; a short batch is filled up. Raises ValueError for a batch of another form."""
        rows = batch_size // process_count
        for batch in self._maker.eval_batches(
            split,
            batch_size=batch_size,
            image_size=image_size,
            process_index=process_index,
            process_count=process_count,
        ):
            short = len(batch[LABEL]) if LABEL in batch else rows
            checked = self._checked(batch, (min(short, rows), image_size, image_size, channels))
            yield {
                key: np.pad(value, [(0, rows - len(value))] + [(0, 0)] * (value.ndim - 1))
                for key, value in checked.items()
            }

    def _checked(self, batch: Mapping[str, Any], expected: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
        missing = [key for key in (IMAGE, LABEL) if key not in batch]
        if missing:
            raise ValueError(f"{self.name}: a batch has no {missing[0]!r}, only {sorted(batch)}")
        rows = expected[0]
        image, label = np.asarray(batch[IMAGE]), np.asarray(batch[LABEL])
        mask = np.asarray(batch.get(MASK, np.ones(rows)))
        if image.shape != expected or image.dtype != np.uint8:
            raise ValueError(f"{self.name}: images are {image.dtype}{list(image.shape)}, not uint8{list(expected)}")
        for key, values, kinds in ((LABEL, label, "iu"), (MASK, mask, "biuf")):
            if values.shape != (rows,) or values.dtype.kind not in kinds:
                raise ValueError(f"{self.name}: {key} is {values.dtype}{list(values.shape)}, not of {rows} numbers")
        if rows and not 0 <= label.min() <= label.max() < self.num_classes:
            raise ValueError(f"{self.name}: labels from {label.min()} to {label.max()}, of {self.num_classes} classes")
        return {IMAGE: image, LABEL: label.astype(np.int32), MASK: mask.astype(np.float32)}


def make(name: str, maker: Any, data_dir: str | os.PathLike | None) -> OwnBatches:
    """`OwnBatches` of what `maker(data_dir)` makes. Raises ValueError where `maker` cannot be called."""
    if not callable(maker):
        raise ValueError(f"{name} is no class that makes batches, see eca_jax.data.own.BatchMaker")
    return OwnBatches(name, maker(data_dir))
