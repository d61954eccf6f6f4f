"""The gallery of a model's attention: what its gates do on a split, beside another model's where there is one."""

import dataclasses
import difflib
import fnmatch
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from eca_jax import kernels
from eca_jax.analysis import figures
from eca_jax.analysis.gallery import Picture, save_numbers, save_picture, write_page
from eca_jax.analysis.gates import (
    GateStatistics,
    autocorrelation,
    channel_kernels,
    gate_statistics,
    intercept_gates,
    permutation_band,
    replaced_gates,
)
from eca_jax.data import OwnBatches, Source
from eca_jax.inference.grad_cam import explain, map_layers
from eca_jax.inference.ranking import softmax
from eca_jax.models.inputs import normalize
from eca_jax.tasks.classification import Classification
from eca_jax.weights.load import Weights

# The four classes of the paper's supplement.
PAPERS = ("hammerhead", "ambulance", "medicine chest", "butternut squash")
MAX_LAGS = 64


@dataclasses.dataclass(frozen=True)
class Look:
    """What is shown.

    Attributes:
      blocks: shell patterns of the blocks in the figures of weights.
      classes: names of the classes that have a line and an example; empty takes the paper's, or else the first four.
      channels: at most so many are drawn of a block; see `figures.channel_weights`.
      effect: measure accuracy with gates replaced, too, which takes three passes for each block.
    """

    blocks: Sequence[str] = ("*",)
    classes: Sequence[str] = ()
    channels: int = 64
    effect: bool = False


@dataclasses.dataclass(frozen=True)
class Seen:
    """A model and what was seen of it."""

    name: str
    weights: Weights
    task: Classification
    statistics: GateStatistics


def visualize(
    directory: epath.Path,
    models: Sequence[Weights],
    source: Source | OwnBatches,
    batch_size: int,
    look: Look,
    facts: Sequence[tuple[str, str]] = (),
) -> list[Picture]:
    """Writes pictures, their numbers and `index.html` into `directory`; process 0 does.

    Args:
      models: one, or several whose blocks have the same names, the first above.
      source: its validation split is looked at.
      facts: what the page says beside the models and the data.

    Raises:
      ValueError: no such class or block, blocks that differ, or no attention with a gate; one line.
    """
    names = _class_names(models[0], source)
    labels = _chosen(names, look.classes)
    titles = _distinct([weights.card.model for weights in models])
    seen = []
    for title, weights in zip(titles, models, strict=True):
        task = Classification.of_weights(weights, source, batch_size)
        seen.append(Seen(title, weights, task, gate_statistics(task, weights.variables, labels)))
    blocks = _blocks(seen, look.blocks)
    effects = {
        one.name: replaced_gates(one.task, one.weights.variables, one.statistics, blocks) for one in seen if look.effect
    }
    if jax.process_index():
        return []
    directory.mkdir(parents=True, exist_ok=True)
    pictures = [_weights(directory, seen, blocks, labels, names, look.channels), _specificity(directory, seen)]
    for number, one in enumerate(seen):
        suffix = f"_{number + 1}" if len(seen) > 1 else ""
        if examples := one.statistics.examples:
            pictures += _examples(directory, one, blocks, {label: names[label] for label in examples}, suffix)
        if filters := channel_kernels(one.weights.variables):
            pictures.append(_kernels(directory, one.name, filters, suffix))
        if one.name in effects:
            pictures.append(_effect(directory, one, effects[one.name], suffix))
    found = []
    for one in seen:
        words = one.task.describe(one.statistics.metrics)
        found.append((one.name, f"{words}; SHA-256 of its weights {_digest(one.weights.variables)}"))
    count = seen[0].statistics.metrics["count"]
    found.append(("classes", ", ".join(names[label] for label in labels)))
    write_page(directory, " beside ".join(titles), [*facts, ("images", f"{count} of {source.name}"), *found], pictures)
    return pictures


def _weights(
    directory: epath.Path,
    seen: Sequence[Seen],
    blocks: Sequence[str],
    labels: Sequence[int],
    names: Sequence[str],
    channels: int,
) -> Picture:
    models: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for one in seen:
        models[one.name] = {}
        for block in blocks:
            of_class = {names[label]: one.statistics.mean(block, label) for label in labels}
            models[one.name][block] = {**of_class, "all": one.statistics.mean(block)}
    save_picture(directory, "weights", figures.channel_weights(models, channels))
    rows = (
        (model, block, name, channel, float(weight))
        for model, gates in models.items()
        for block, lines in gates.items()
        for name, weights in lines.items()
        for channel, weight in enumerate(weights)
    )
    save_numbers(directory, "weights", ("model", "block", "class", "channel", "weight"), rows)
    most = max(len(weights) for gates in models.values() for lines in gates.values() for weights in lines.values())
    drawn = f"at most {channels} evenly spaced channels of a block are" if most > channels else "every channel is"
    return Picture(
        "weights",
        "Channel weights",
        f"The gate's mean weight of each channel over the images of a class, and over all; {drawn} drawn, and the "
        "numbers are of all.",
        f"Lines of channel weights between 0 and 1 in the blocks {', '.join(blocks)}",
    )


def _specificity(directory: epath.Path, seen: Sequence[Seen]) -> Picture:
    shares = {one.name: {b: one.statistics.specificity(b) for b in one.statistics.gates} for one in seen}
    chance = seen[0].statistics.chance
    save_picture(directory, "specificity", figures.specificity(shares, chance))
    rows = [(model, block, share, chance) for model, of in shares.items() for block, share in of.items()]
    save_numbers(directory, "specificity", ("model", "block", "eta_squared", "by_chance"), rows)
    return Picture(
        "specificity",
        "Class-specificity",
        "The share of the variance of a channel's weight that lies between classes, mean over channels: 0 where the "
        f"weights know nothing of the class, {chance:.3f} on average by chance with as many images.",
        "A line over blocks for each model",
    )


def _kernels(directory: epath.Path, name: str, filters: Mapping[str, np.ndarray], suffix: str) -> Picture:
    save_picture(directory, f"kernels{suffix}", figures.kernels(filters))
    rows = [(key, tap - len(taps) // 2, float(v)) for key, taps in filters.items() for tap, v in enumerate(taps)]
    save_numbers(directory, f"kernels{suffix}", ("filter", "offset", "tap"), rows)
    return Picture(f"kernels{suffix}", f"Kernels of {name}", "The learned filters along the channels.", "Stem plots")


def _effect(directory: epath.Path, one: Seen, effect: Mapping[str, Mapping[str, float]], suffix: str) -> Picture:
    as_trained = one.statistics.metrics["top1"]
    save_picture(directory, f"replaced{suffix}", figures.replaced(effect, as_trained))
    rows: list[tuple[str, str, float]] = [("none", "as trained", as_trained)]
    rows += [(block, kind, value) for block, of in effect.items() for kind, value in of.items()]
    save_numbers(directory, f"replaced{suffix}", ("block", "replacement", "top1"), rows)
    return Picture(
        f"replaced{suffix}",
        f"Gates of {one.name} replaced",
        "Top-1 with the gate of one block, or of all, replaced by its mean over all images, by its weights in another "
        "order of the channels, and by 0.5.",
        "Bars of accuracy by block",
    )


def _examples(
    directory: epath.Path, one: Seen, blocks: Sequence[str], classes: Mapping[int, str], suffix: str
) -> list[Picture]:
    """The figures of a few images: descriptors, and where in the image the predicted class is seen."""
    images = np.stack([one.statistics.examples[label] for label in classes])
    pooled, maps, logits = _explained(one, images)
    names = _class_names(one.weights, one.task.source)
    likeliest, probabilities = logits.argmax(axis=1), softmax(logits).max(axis=1)
    shown = {name: figures.as_rgb(image) for name, image in zip(classes.values(), images, strict=True)}
    predicted = {
        f"{name}\npredicted {names[best]}, {share:.0%}": image
        for (name, image), best, share in zip(shown.items(), likeliest, probabilities, strict=True)
    }
    save_picture(directory, f"maps{suffix}", figures.overlays(predicted, maps))
    rows = [
        (name, title, y, x, float(value))
        for title, of in maps.items()
        for name, values in zip(shown, of, strict=True)
        for (y, x), value in np.ndenumerate(values)
    ]
    save_numbers(directory, f"maps{suffix}", ("image", "map", "y", "x", "value"), rows)

    some = list(dict.fromkeys(blocks[round(i)] for i in np.linspace(0, len(blocks) - 1, min(6, len(blocks)))))
    correlations = {}
    for block in some:
        values = one.statistics.descriptor(block)
        lags = min(MAX_LAGS, len(values) // 2)
        correlations[block] = (autocorrelation(values, lags), permutation_band(values, lags))
    chosen = {block: pooled[block] for block in some}
    save_picture(directory, f"descriptors{suffix}", figures.descriptors(shown, chosen, correlations))
    lines = [
        (block, name, channel, float(value))
        for block, of in chosen.items()
        for name, values in zip(shown, of, strict=True)
        for channel, value in enumerate(values)
    ]
    for block, (values, (low, high)) in correlations.items():
        for name, numbers in (("autocorrelation", values), ("2.5 % of permutations", low), ("97.5 %", high)):
            lines += [(block, name, lag, float(value)) for lag, value in enumerate(numbers, 1)]
    save_numbers(directory, f"descriptors{suffix}", ("block", "line", "channel_or_lag", "value"), lines)
    return [
        Picture(
            f"maps{suffix}",
            f"Where {one.name} sees the predicted class",
            "Grad-CAM of the last block, and Grad-CAM and HiResCAM of the last block on a finer grid. Of the last "
            "block before pooling and a dense layer both are the same.",
            "Images with heat maps over them",
        ),
        Picture(
            f"descriptors{suffix}",
            f"What the gates of {one.name} are given",
            "Channel means of an image of each class; below, the autocorrelation of their mean over the split along "
            "the channels, beside that of random permutations of the channels.",
            "Lines over channels and over lags",
        ),
    ]


def _explained(one: Seen, images: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Descriptors by block, maps by title, and logits, of a few images uint8 [N, H, W, C]."""
    model, variables, how = one.weights.model, one.weights.variables, one.task.preprocessing
    shapes = map_layers(model, variables, jnp.zeros((1, *images.shape[1:]), model.dtype))
    own = {name: shape for name, shape in shapes.items() if "/" not in name}
    last = list(own)[-1]
    finer = next((name for name in reversed(own) if own[name][1] > own[last][1]), None)

    def program(variables: Any, images: jax.Array) -> Any:
        inputs = normalize(images, how.mean, how.std, model.dtype)
        pooled = {}

        def note(block: str, descriptor: jax.Array, out: jax.Array) -> jax.Array:
            pooled[block] = descriptor
            return out

        with intercept_gates(note):
            logits: Any = model.apply(variables, inputs, train=False)
        look = functools.partial(explain, model, variables, inputs)
        maps = {f"Grad-CAM, {last}": look(None, last)[0]}
        if finer:
            maps[f"Grad-CAM, {finer}"] = look(None, finer)[0]
            maps[f"HiResCAM, {finer}"] = look(None, finer, method="hires_cam")[0]
        return pooled, maps, logits

    pooled, maps, logits = jax.tree.map(np.asarray, kernels.jit(program)(variables, images))
    return pooled, {key: maps[key] for key in sorted(maps, key=lambda key: (last not in key, key))}, logits


def _digest(variables: Any) -> str:
    """The first 16 digits of a hash of the values, the same from whatever file they were read."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _class_names(weights: Weights, source: Source | OwnBatches) -> Sequence[str]:
    """Of the model's classes. Weights that know none go by the places of the data's; without those, numbers."""
    count = weights.model.num_classes
    of_data = source.class_names if len(source.class_names) == count else None
    return weights.class_names or of_data or [str(index) for index in range(count)]


def _chosen(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Indices of the classes to show. ValueError for a name that is none; names the nearest."""
    if not classes:
        classes = PAPERS if set(PAPERS) <= set(names) else names[:4]
    for name in classes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
            raise ValueError(f"no class {name!r}: {' or '.join(near or names[:5])}")
    return [names.index(name) for name in classes]


def _blocks(seen: Sequence[Seen], patterns: Sequence[str]) -> list[str]:
    known = list(seen[0].statistics.gates)
    blocks = [name for name in known if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not blocks:
        raise ValueError(f"no block matches {', '.join(patterns)}: there are {', '.join(known)}")
    for one in seen[1:]:
        missing = [block for block in blocks if block not in one.statistics.gates]
        if missing:
            raise ValueError(f"{one.name} has no block {missing[0]}, which {seen[0].name} has")
    return blocks


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of several models, numbered where two are the same."""
    return [f"{name} ({i})" if list(names).count(name) > 1 else name for i, name in enumerate(names, 1)]
