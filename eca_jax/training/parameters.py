"""Parameters by their path, "layer1_0/conv1/kernel": which decay, which stay, at what share of the rate each learns."""

import re
from collections.abc import Sequence
from typing import Any

import jax

# The last part of the path of a standardised convolution's gain.
GAIN = "gain"

# The blocks of the networks here, counted from the image: ResNet's, timm's, MobileNetV2's.
_BLOCK = re.compile(r"(?:^|/)(?:layer|stages_|features_)(\d+)(?:_(?:blocks_)?(\d+))?(?=[/_]|$)")
_STEM = re.compile(r"(?:^|/)(?:conv1|bn1|stem|features_0)(?:[/_]|$)")
_LAST_CONV = re.compile(r"(?:^|/)final_conv(?:/|$)")


def paths(params: Any) -> Any:
    """The tree of the parameters' paths."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "/".join(part.key for part in path), params)


def kernels(params: Any) -> Any:
    """True where a parameter has two axes or more: kernels, and not scales and biases. timm's rule of what decays.

    The gains of standardised convolutions are among them: timm's have an axis for each of the kernel's.
    """

    def decays(path: Any, leaf: Any) -> bool:
        return leaf.ndim > 1 or path[-1].key == GAIN

    return jax.tree_util.tree_map_with_path(decays, params)


def classifiers(params: Any) -> Any:
    """True for the classifier's kernel and bias."""
    return matching(params, (r"(?:head/)?(?:fc|classifier)/",))


def matching(params: Any, patterns: Sequence[str]) -> Any:
    """True where a path matches one of the patterns from its beginning."""
    return jax.tree.map(lambda path: any(re.match(pattern, path) for pattern in patterns), paths(params))


def shares(params: Any, rates: Sequence[tuple[str, float]], layer_decay: float = 1.0) -> Any:
    """What the learning rate of each parameter is multiplied by, a float.

    Args:
      rates: (pattern, share) each: the first pattern that matches a path from its beginning gives the parameter's
        share; 1 where none does.
      layer_decay: and then layer_decay ** (number of layers behind the parameter's), as timm counts them: stem,
        blocks, last convolution, classifier, the last of which learns at the full rate.

    Raises:
      ValueError: a pattern that matches no parameter, or layers that cannot be told apart.
    """
    names = jax.tree.leaves(paths(params))
    for pattern, _ in rates:
        if not any(re.match(pattern, name) for name in names):
            raise ValueError(f"rates names {pattern!r}, and no parameter has such a path")
    factor = dict.fromkeys(names, 1.0)
    if layer_decay != 1.0:
        groups = layer_groups(names)
        last = max(groups.values())
        if not last:
            raise ValueError("layer_decay needs layers, and this network's cannot be told apart by their names")
        factor = {name: layer_decay ** (last - group) for name, group in groups.items()}

    def share(path: str) -> float:
        return factor[path] * next((rate for pattern, rate in rates if re.match(pattern, path)), 1.0)

    return jax.tree.map(share, paths(params))


def layer_groups(names: Sequence[str]) -> dict[str, int]:
    """The number of the layer that each parameter belongs to, from 0, nearest to the image first."""

    def place(name: str) -> tuple[int, ...]:
        if block := _BLOCK.search(name):
            number, index = block.groups()
            return (0, 0, 0) if _STEM.search(name) and number == "0" else (1, int(number), int(index or 0))
        if _STEM.search(name):
            return (0, 0, 0)
        return (2, 0, 0) if _LAST_CONV.search(name) else (3, 0, 0)

    places = {name: place(name) for name in names}
    order = sorted(set(places.values()))
    return {name: order.index(found) for name, found in places.items()}
