"""Names of classes: ImageNet's are built in, other weights bring their own."""

import functools
from collections.abc import Sequence
from importlib import resources


@functools.cache
def imagenet_names() -> dict[str, str]:
    """The 1,000 classes of ILSVRC 2012 in their usual order, {"n01440764": "tench", ...}, by WordNet's identifiers.

    The names are those that torchvision gives with its weights; no two are the same.
    """
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def class_names(stored: Sequence[str] | None, num_classes: int) -> list[str] | None:
    """Names of a model's classes for people, or None where nothing tells them.

    Those that lie beside the weights, with WordNet's identifiers of ImageNet's classes turned into words; where there
    are none and the model has 1,000 classes, ImageNet's.

    Args:
      stored: what lies beside the weights, see `eca_jax.weights.card`.
    """
    known = imagenet_names()
    names = stored or (list(known) if num_classes == len(known) else None)
    if names is None or len(names) > num_classes:
        return None
    # A head may be wider than its data set has classes.
    named = [known.get(name, name) for name in names]
    return named + [str(index) for index in range(len(names), num_classes)]


def label_map(of_data: Sequence[str], stored: Sequence[str] | None, num_classes: int) -> list[int] | None:
    """For each class of a data set its index among a model's classes, by name; None where nothing tells the model's.

    Args:
      of_data: the data set's names, in the order of its labels.
      stored, num_classes: of the model, as for `class_names`. WordNet's identifiers and their words are the same.

    Raises:
      ValueError: the model knows no class of that name; names it.
    """
    words = imagenet_names()
    names = list(stored or (words if num_classes == len(words) else ()))
    places = {words.get(name, name): index for index, name in enumerate(names)}
    unknown = [name for name in of_data if words.get(name, name) not in places]
    if not stored and len(unknown) == len(of_data):  # it was but a guess that the weights are ImageNet's
        return None
    if unknown:
        known = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(f"the weights know no class {unknown[0]!r}{more}; theirs are {known}")
    return [places[words.get(name, name)] for name in of_data]
