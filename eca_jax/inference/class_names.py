"""Names of classes: ImageNet's are built in, other weights bring their own."""

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any


@functools.cache
def imagenet_names() -> dict[str, str]:
    """The 1,000 classes of ILSVRC 2012 in their usual order, {"n01440764": "tench", ...}, by WordNet's identifiers.

    The names are those that torchvision gives with its weights; no two are the same.
    """
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def class_names(meta: Mapping[str, Any], num_classes: int) -> list[str] | None:
    """Names of a model's classes, or None where nothing tells them.

    Those that lie beside the weights, with WordNet's identifiers of ImageNet's classes turned into words; where there
    are none and the model has 1,000 classes, ImageNet's.

    Args:
      meta: what lies beside the weights, such as the config.json of a training workdir.
    """
    known = imagenet_names()
    names = meta.get("class_names") or (list(known) if num_classes == 1000 else None)
    if names is None or len(names) > num_classes:
        return None
    # A head may be wider than its data set has classes.
    named = [known.get(name, name) for name in names]
    return named + [str(index) for index in range(len(names), num_classes)]
