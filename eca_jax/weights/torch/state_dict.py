"""PyTorch state dicts to Flax variables and back, strict in both directions."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.models.detection.detector import Detector
from eca_jax.models.naming import Naming
from eca_jax.models.registry import create_model, entry, list_models
from eca_jax.weights.torch.names import COUNTS, Pair, Path, Shape, abstract_variables, correspondence

# What nn.DataParallel and torch.compile put before every key of the model that they wrap.
WRAPPERS = ("module.", "_orig_mod.")


# So many differences still look like the right model's. With more, the others are tried, which takes seconds.
FEW = 10


class MismatchError(ValueError):
    """Tensors that are not those of the model: some are missing, unexpected or of another shape."""


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The model that a set of tensors belongs to.

    Attributes:
      name, format: of the model, and of the PyTorch names.
      options: what to give `create_model` beside the name.
      pairs: its tensors in both worlds, in the order of PyTorch's `state_dict`.
    """

    name: str
    format: str
    options: dict[str, Any]
    pairs: list[Pair]


def from_torch(
    state_dict: Mapping[str, Any], name: str, *, format: str | None = None, **overrides: Any
) -> dict[str, Any]:
    """Flax variables from PyTorch tensors.

    The number of classes and the kernel sizes of ECA are those of the tensors, unless given; `model_options` tells
    which they are, for `create_model`. Keys may carry DataParallel's `module.`. bfloat16, float16 and float64
    tensors become float32; float32 tensors keep every bit. The arrays are copies.

    Args:
      state_dict: torch tensors or NumPy arrays by PyTorch's names.
      name: of the model.
      format: of the names: "ecanet", "torchvision" or "timm"; None is the model's own.
      **overrides: as for `create_model`. With `num_classes=0` or `features_only=True` the state dict is still
        the whole model's, and the variables are the part of it that the model without classifier has.

    Returns:
      {"params": ..., "batch_stats": ...}, NumPy arrays of float32. BatchNorm's counters of batches, which nothing
      here needs, come along as a third collection "num_batches_tracked" where they are not all zero, for
      `to_torch` to give them back; where the state dict has none (PyTorch before 0.4.1) they count as zero.

    Raises:
      MismatchError (a ValueError): a tensor is missing, unexpected, or of another shape; lists them and guesses why.
      ValueError: unknown model or option, or a tensor that is not of floating point.
    """
    return from_torch_resolved(state_dict, name, format=format, **overrides)[0]


def from_torch_resolved(
    state_dict: Mapping[str, Any], name: str, *, format: str | None = None, **overrides: Any
) -> tuple[dict[str, Any], Resolved]:
    """`from_torch`, and which model the tensors turned out to be of."""
    state_dict = unwrapped(state_dict)
    resolved = resolve(state_dict, name, format, **overrides)
    by_key = {pair.key: pair for pair in resolved.pairs}
    flat = {by_key[key].path: _to_flax(tensor, by_key[key]) for key, tensor in state_dict.items()}
    if not any(value for path, value in flat.items() if path[0] == COUNTS):
        flat = {path: value for path, value in flat.items() if path[0] != COUNTS}
    ordered = {pair.path: flat[pair.path] for pair in resolved.pairs if pair.path in flat}
    return unflatten_dict(without_classifier(ordered, resolved)), resolved


def without_classifier(flat: dict[Path, Any], resolved: Resolved) -> dict[Path, Any]:
    """The variables that the model has, given all of the model with classifier; the same where it has one."""
    if not _headless(resolved.options):
        return flat
    model = create_model(resolved.name, **resolved.options)
    part = abstract_variables(model, image_size(resolved.name, resolved.options))
    return {path: value for path, value in flat.items() if path[0] == COUNTS or path in part}


def to_torch(
    variables: Mapping[str, Any], name: str, *, format: str | None = None, **overrides: Any
) -> dict[str, np.ndarray]:
    """PyTorch tensors from Flax variables, as NumPy arrays: float32, and int64 scalars for BatchNorm's counters.

    The keys are those of the original's `state_dict()`, in its order, and load there with `strict=True`. The
    counters are zero unless the variables brought them along (see `from_torch`).

    Args:
      variables: {"params": ..., "batch_stats": ...}.
      name, format, **overrides: as for `from_torch`.

    Raises:
      MismatchError (a ValueError): the variables are not those of the model.
      ValueError: unknown model or option.
    """
    flat = flatten_dict(dict(variables))
    resolved = resolve_variables(flat, name, format, **overrides)
    return {pair.key: _to_torch(flat.get(pair.path, np.int64(0)), pair) for pair in resolved.pairs}


def model_options(
    state_dict: Mapping[str, Any], name: str, *, format: str | None = None, **overrides: Any
) -> dict[str, Any]:
    """What `create_model(name, **options)` needs to build the model of this state dict: `from_torch`'s `overrides`,
    `num_classes`, and where they are not the model's default, ECA's `kernel_sizes`. Raises as `from_torch` does."""
    return resolve(unwrapped(state_dict), name, format, **overrides).options


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict without the prefixes that DataParallel and torch.compile put before every key."""
    for prefix in WRAPPERS:
        if state_dict and all(key.startswith(prefix) for key in state_dict):
            return unwrapped({key.removeprefix(prefix): value for key, value in state_dict.items()})
    return dict(state_dict)


def resolve(state_dict: Mapping[str, Any], name: str, format: str | None = None, **overrides: Any) -> Resolved:
    """The model that the tensors of an unwrapped state dict belong to. Raises as `from_torch` does."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}

    def found(pair: Pair) -> Shape | None:
        return pair.layout.flax_shape(shapes[pair.key]) if pair.key in shapes else None

    resolved = _infer(found, name, format, overrides)
    expected = {pair.key: pair.torch_shape for pair in resolved.pairs}
    optional = {pair.key for pair in resolved.pairs if pair.path[0] == COUNTS}
    message = _differences(shapes, expected, optional)
    if message:
        there, asked = ({k: v for k, v in side.items() if k not in optional} for side in (shapes, expected))
        hint = _guess(there, asked, resolved)
        raise MismatchError(f"the tensors are not those of {name} by {resolved.format}'s names: {message}{hint}")
    return resolved


def resolve_variables(flat: Mapping[Path, Any], name: str, format: str | None = None, **overrides: Any) -> Resolved:
    """As `resolve`, for flattened Flax variables. Raises as `to_torch` does."""
    shapes = {path: np.shape(value) for path, value in flat.items()}
    resolved = _infer(lambda pair: shapes.get(pair.path), name, format, overrides)
    found = {"/".join(path): shape for path, shape in shapes.items()}
    expected = {"/".join(pair.path): pair.shape for pair in resolved.pairs}
    message = _differences(found, expected, {path for path in expected if path.startswith(COUNTS)})
    if message:
        raise MismatchError(f"the variables are not those of {name}: {message}")
    return resolved


def expected_keys(name: str, format: str | None, overrides: Mapping[str, Any]) -> set[str]:
    """PyTorch's keys of a model, whatever its number of classes. Raises ValueError for an unknown model or option."""
    asked = _with_classifier(overrides)
    model = create_model(name, **asked)
    choices = [format] if format else formats(name)
    size = image_size(name, asked)
    return {pair.key for choice in choices for pair in correspondence(model, size, entry(name).rules(choice))}


def _infer(
    found: Callable[[Pair], Shape | None], name: str, format: str | None, overrides: Mapping[str, Any]
) -> Resolved:
    """`found` tells the Flax shape that a tensor has, or None where it is missing or of another kind."""
    asked = _with_classifier(overrides)
    model = create_model(name, **asked)
    format, pairs = _best_format(name, model, found, [format] if format else formats(name), asked)
    options = {**asked, **_inferred(name, model, pairs, found, asked)}
    if any(found(pair) not in (None, pair.shape) for pair in pairs):
        rules = entry(name).rules(format)
        pairs = correspondence(create_model(name, **options), image_size(name, options), rules)
    return Resolved(name, format, {**options, **_headless(overrides)}, pairs)


def formats(name: str) -> list[str]:
    """Whose PyTorch names the weights of a model may have: its own, and for torchvision's detectors the older ones."""
    own = entry(name).weights_format
    return [own, "torchvision_detection_v1"] if own == "torchvision_detection" else [own]


def _best_format(
    name: str,
    model: nn.Module,
    found: Callable[[Pair], Shape | None],
    choices: Sequence[str],
    asked: Mapping[str, Any],
) -> tuple[str, list[Pair]]:
    """The format in which most of the model's tensors are there, the first of equals, and its pairs."""
    size = image_size(name, asked)
    pairs = {choice: correspondence(model, size, entry(name).rules(choice)) for choice in choices}
    if len(choices) == 1:
        return choices[0], pairs[choices[0]]
    best = max(choices, key=lambda choice: sum(found(pair) is not None for pair in pairs[choice]))
    return best, pairs[best]


def _inferred(
    name: str,
    model: nn.Module,
    pairs: Iterable[Pair],
    found: Callable[[Pair], Shape | None],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """The options that show in the tensors' shapes and were not asked for."""
    naming = entry(name).naming
    attention = getattr(model, "attention_spec", None)
    kernel_path = attention.kernel_path if attention else ()
    options: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    default_sizes: dict[str, int] = {}
    for pair in pairs:
        collection, *module, leaf = pair.path
        if collection != "params":
            continue
        shape, path = found(pair), "/".join(module)
        if shape and leaf == "kernel" and isinstance(model, Detector):
            classes = model.classes_of(tuple(module), shape[-1])
            options |= {"num_classes": classes} if classes else {}
        elif shape and leaf == "kernel" and path == naming.classifier:
            options["num_classes"] = shape[-1]
        # One kernel size for each place, which the place's first attention tells.
        place = re.match(naming.place, path)
        if place and kernel_path and pair.path[-len(kernel_path) :] == kernel_path:
            default_sizes.setdefault(place[0], pair.shape[0])
            sizes.setdefault(place[0], shape[0] if shape else pair.shape[0])
    if sizes != default_sizes:
        options["kernel_sizes"] = tuple(sizes.values())
    return {key: value for key, value in options.items() if key not in asked}


def _with_classifier(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides without those that ask for a model without classifier."""
    asked = {key: value for key, value in overrides.items() if key != "features_only"}
    if not asked.get("num_classes"):
        asked.pop("num_classes", None)
    return asked


def _headless(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the overrides that ask for a model without classifier."""
    asked = {"features_only": True} if overrides.get("features_only") else {}
    return asked | ({"num_classes": 0} if overrides.get("num_classes") == 0 else {})


def image_size(name: str, options: Mapping[str, Any]) -> int:
    """Pixels of the images that the model is initialised with; position tables are made for a size."""
    return options.get("image_size") or entry(name).preprocessing.image_size


def _to_flax(tensor: Any, pair: Pair) -> np.ndarray:
    array = to_numpy(tensor)
    if pair.path[0] == COUNTS:
        return np.array(array, np.int64)
    if array.dtype.kind not in "fV":  # V: bfloat16 and float8, which NumPy only knows through ml_dtypes
        raise ValueError(f"{pair.key} has numbers of type {array.dtype}; weights have to be of floating point")
    return np.array(pair.layout.to_flax(array), np.float32, order="C")


def _to_torch(value: Any, pair: Pair) -> np.ndarray:
    dtype = np.int64 if pair.path[0] == COUNTS else np.float32
    return np.array(pair.layout.to_torch(np.asarray(value)), dtype, order="C")


def to_numpy(tensor: Any) -> np.ndarray:
    """A torch tensor, on whatever device, or anything that NumPy understands. torch is never imported."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        # NumPy has no bfloat16; float32 holds every value of it.
        tensor = (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()
    return np.asarray(tensor)


def _differences(found: Mapping[str, Shape], expected: Mapping[str, Shape], optional: set[str]) -> str:
    """What is missing, unexpected and of another shape, in one line; empty where all is as expected."""
    missing = [key for key in expected if key not in found and key not in optional]
    unexpected = [key for key in found if key not in expected]
    misshapen = [
        f"{key} is {found[key]} and should be {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    return "; ".join(f"{len(keys)} {what} ({_first(keys)})" for what, keys in groups.items() if keys)


def _first(keys: Sequence[str], shown: int = 3) -> str:
    return ", ".join(keys[:shown]) + (", ..." if len(keys) > shown else "")


def _guess(found: Mapping[str, Shape], expected: Mapping[str, Shape], resolved: Resolved) -> str:
    """A likely cause of the differences, as the end of the message; empty if there is none."""
    if not found:
        return ": there are no tensors at all"
    prefix = next((key.split(".")[0] + "." for key in found if "." in key), "")
    if prefix and all(key.startswith(prefix) for key in found):
        inner = {key.removeprefix(prefix) for key in found}
        if len(inner & set(expected)) > len(expected) // 2:
            return f": every key begins with {prefix!r}; take that away"
    strange = set(found) ^ set(expected)
    wrong = {key for key in expected if key in found and found[key] != expected[key]}
    path = entry(resolved.name).naming.classifier
    classifier = [pair for pair in resolved.pairs if "/".join(pair.path[1:-1]) == path and pair.key in wrong]
    if len(classifier) == len(wrong) == 2 and not strange:  # kernel and bias: a single one is damage
        there, asked = found[classifier[0].key][0], expected[classifier[0].key][0]
        return f": they have {there} classes, and num_classes={asked} was asked for"
    few = len(wrong) + len(strange) <= FEW
    if few and (wrong or len(strange) <= 2):
        return ""
    relatives = _relatives(resolved.name) if set(found) & set(expected) else ()
    if few:  # of all of an attention's tensors, say: the same network with another or without
        relatives = [name for name in relatives if name.rpartition("_")[2] == resolved.name.rpartition("_")[2]]
    other = next((name for name in relatives if _fits(found, name)), None)
    if few and not other:
        return ""
    return f": they are those of {other}" if other else ": they look like another model's, or another format's"


def _relatives(name: str) -> list[str]:
    """Models of the same family, other than this one."""

    def family(other: str) -> tuple[Any, Naming]:
        return getattr(entry(other).build, "func", entry(other).build), entry(other).naming

    return [other for other in list_models() if other != name and family(other) == family(name)]


def _fits(shapes: Mapping[str, Shape], name: str) -> bool:
    """Whether tensors of these names and shapes are those of a model, whatever its number of classes and kernels."""

    def found(pair: Pair) -> Shape | None:
        return pair.layout.flax_shape(shapes[pair.key]) if pair.key in shapes else None

    pairs = _infer(found, name, None, {}).pairs
    expected = {pair.key: pair.torch_shape for pair in pairs}
    return not _differences(shapes, expected, {pair.key for pair in pairs if pair.path[0] == COUNTS})
