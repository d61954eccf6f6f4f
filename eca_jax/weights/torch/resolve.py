"""Which model tensors belong to: its options, as far as they show in the tensors, and whether all of them fit."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from eca_jax.models.detection.detector import Detector
from eca_jax.models.naming import Naming, Rules, attention_rules
from eca_jax.models.registry import accepts, create_model, entry, list_models
from eca_jax.weights.torch.names import COUNTS, Pair, Path, Shape, correspondence, variable_shapes

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


def resolve(
    state_dict: Mapping[str, Any], name: str, format: str | None = None, *, partial: bool = False, **overrides: Any
) -> Resolved:
    """The model that the tensors of an unwrapped state dict belong to. Raises as `from_torch` does."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}

    def found(pair: Pair) -> Shape | None:
        return pair.layout.flax_shape(shapes[pair.key]) if pair.key in shapes else None

    resolved = _infer(found, shapes, name, format, overrides)
    expected = {pair.key: pair.torch_shape for pair in resolved.pairs}
    missing = {pair.path for pair in resolved.pairs if pair.key not in shapes}
    optional = {pair.key for pair in _optional(resolved, missing, partial)}
    message = _differences(shapes, expected, optional)
    if message:
        there, asked = ({k: v for k, v in side.items() if k not in optional} for side in (shapes, expected))
        hint = _guess(there, asked, resolved)
        raise MismatchError(f"the tensors are not those of {name} by {resolved.format}'s names: {message}{hint}")
    return resolved


def resolve_variables(
    flat: Mapping[Path, Any], name: str, format: str | None = None, *, partial: bool = False, **overrides: Any
) -> Resolved:
    """As `resolve`, for flattened Flax variables. Raises as `to_torch` does."""
    shapes = {path: np.shape(value) for path, value in flat.items()}
    names = ["/".join(path[1:]) for path in shapes]
    resolved = _infer(lambda pair: shapes.get(pair.path), names, name, format, overrides)
    found = {"/".join(path): shape for path, shape in shapes.items()}
    expected = {"/".join(pair.path): pair.shape for pair in resolved.pairs}
    missing = {pair.path for pair in resolved.pairs} - set(shapes)
    optional = {"/".join(pair.path) for pair in _optional(resolved, missing, partial)}
    message = _differences(found, expected, optional)
    if message:
        raise MismatchError(f"the variables are not those of {name}: {message}")
    return resolved


def without_classifier(flat: dict[Path, Any], resolved: Resolved) -> dict[Path, Any]:
    """The variables that the model has, given all of the model with classifier; the same where it has one."""
    if not _headless(resolved.options):
        return flat
    part = _own(resolved)
    return {path: value for path, value in flat.items() if path[0] == COUNTS or path in part}


def _own(resolved: Resolved) -> Mapping[Path, Shape]:
    """The variables of the model itself, with or without classifier."""
    model = create_model(resolved.name, **resolved.options)
    return variable_shapes(model, image_size(resolved.name, resolved.options))


def _optional(resolved: Resolved, missing: set[Path], partial: bool) -> list[Pair]:
    """What may be missing: counters, what a model without classifier has not; by `partial` more, where all of it is."""
    classifier = entry(resolved.name).naming.classifier
    spec = getattr(create_model(resolved.name, **resolved.options), "attention_spec", None)
    headless = _own(resolved) if _headless(resolved.options) else None

    def in_classifier(pair: Pair) -> bool:
        return "/".join(pair.path[1:-1]) == classifier

    def in_attention(pair: Pair) -> bool:
        return spec is not None and spec.name in pair.path[2:-1]

    may = [pair for pair in resolved.pairs if pair.path[0] == COUNTS or (headless and pair.path not in headless)]
    for part in (in_classifier, in_attention) if partial else ():
        pairs = [pair for pair in resolved.pairs if part(pair)]
        if all(pair.path in missing for pair in pairs):
            may += pairs
    return may


def expected_keys(name: str, format: str | None, overrides: Mapping[str, Any]) -> set[str]:
    """PyTorch's keys of a model, whatever its number of classes. Raises ValueError for an unknown model or option."""
    asked, choices = _with_classifier(overrides), [format] if format else formats(name)
    return {pair.key for choice in choices for pair in pairs_of(name, choice, asked)}


def formats(name: str) -> list[str]:
    """Whose PyTorch names the weights of a model may have: its own, and for torchvision's detectors the older ones."""
    own = entry(name).weights_format
    return [own, "torchvision_detection_v1"] if own == "torchvision_detection" else [own]


def pairs_of(name: str, format: str | None, options: Mapping[str, Any]) -> list[Pair]:
    """The tensors of a model by the names of `format`, None for the model's own. Raises ValueError as `from_torch`."""
    model = create_model(name, **options)
    spec = getattr(model, "attention_spec", None)
    rules = (*attention_rules(spec, format or entry(name).weights_format), *entry(name).rules(format))
    try:
        return _traced(model, image_size(name, options), rules)
    except TypeError:  # an option that cannot be hashed, such as a list
        return correspondence(model, image_size(name, options), rules)


@functools.lru_cache(maxsize=16)  # a file is looked at several times: where its tensors are, which model, do they fit
def _traced(model: nn.Module, size: int, rules: Rules) -> list[Pair]:
    return correspondence(model, size, rules)


def _infer(
    found: Callable[[Pair], Shape | None],
    names: Iterable[str],
    name: str,
    format: str | None,
    overrides: Mapping[str, Any],
) -> Resolved:
    """The model of tensors.

    Args:
      found: tells the Flax shape that a tensor has, or None where it is missing or of another kind.
      names: of all tensors, "layer1.0.conv1.weight" or "layer1_0/conv1/kernel".
    """
    asked = _with_classifier(overrides)
    options = {**asked, **_inferred_stages(name, names, asked)}
    format, pairs = _best_format(name, found, [format] if format else formats(name), options)
    options |= _inferred(name, create_model(name, **options), pairs, found, asked)
    if any(found(pair) not in (None, pair.shape) for pair in pairs):
        pairs = pairs_of(name, format, options)
    return Resolved(name, format, {**options, **_headless(overrides)}, pairs)


def _best_format(
    name: str, found: Callable[[Pair], Shape | None], choices: Sequence[str], options: Mapping[str, Any]
) -> tuple[str, list[Pair]]:
    """The format in which most of the model's tensors are there, the first of equals, and its pairs."""
    pairs = {choice: pairs_of(name, choice, options) for choice in choices}
    best = max(choices, key=lambda choice: sum(found(pair) is not None for pair in pairs[choice]))
    return best, pairs[best]


def _inferred_stages(name: str, names: Iterable[str], asked: Mapping[str, Any]) -> dict[str, Any]:
    """`stage_sizes`, where the blocks that are there are no registered model's of this family."""
    blocks = entry(name).naming.blocks
    if not blocks or "stage_sizes" in asked or not accepts(name, "stage_sizes"):
        return {}
    sizes = _stage_sizes(blocks, names)
    registered = {getattr(create_model(other), "stage_sizes", None) for other in (name, *_relatives(name))}
    return {} if not any(sizes) or sizes in registered else {"stage_sizes": sizes}


def _stage_sizes(blocks: str, names: Iterable[str]) -> tuple[int, ...]:
    """How many blocks each of the four stages has. The first stage has a block, and the number 0 or 1."""
    found: dict[int, int] = {}
    for match in filter(None, (re.match(blocks, name) for name in names)):
        stage, block = int(match[1]), int(match[2])
        found[stage] = max(found.get(stage, 0), block + 1)
    first = min(found, default=0)
    return tuple(found.get(stage, 0) for stage in range(first, first + 4))


def _inferred(
    name: str,
    model: nn.Module,
    pairs: Sequence[Pair],
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
    channels: dict[str, int] = {}
    first = input_kernel(pairs) if accepts(name, "in_chans") else None
    for pair in pairs:
        collection, *module, leaf = pair.path
        if collection != "params":
            continue
        shape, path = found(pair), "/".join(module)
        if shape and leaf == "kernel":
            channels[path] = shape[-1]
        if shape and pair is first and shape[2] != pair.shape[2]:
            options["in_chans"] = shape[2]
        if shape and leaf == "kernel" and isinstance(model, Detector):
            classes = model.classes_of(tuple(module), shape[-1])
            options |= {"num_classes": classes} if classes else {}
        elif shape and leaf == "kernel" and path == naming.classifier:
            options["num_classes"] = shape[-1]
        elif shape and leaf == "kernel" and path == naming.stem and shape[:2] == (3, 3) != pair.shape[:2]:
            options["small_images"] = True
        # One kernel size for each place, which the place's first attention tells.
        place = re.match(naming.place, path)
        if place and kernel_path and pair.path[-len(kernel_path) :] == kernel_path:
            default_sizes.setdefault(place[0], pair.shape[0])
            sizes.setdefault(place[0], shape[0] if shape else pair.shape[0])
    if sizes != default_sizes:
        options["kernel_sizes"] = tuple(sizes.values())
    width = naming.width(channels) if naming.width else None
    if width not in (None, getattr(model, "width_mult", None)):
        options["width_mult"] = width
    return {key: value for key, value in options.items() if key not in asked}


def input_kernel(pairs: Iterable[Pair]) -> Pair:
    """The first convolution's, which sees the image; of a classifier's pairs, in their order."""
    return next(pair for pair in pairs if pair.path[-1] == "kernel")


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
    own = {pair.key for pair in resolved.pairs if "/".join(pair.path[1:-1]) == path}
    if not wrong and strange == own:
        return ": they have no classifier; num_classes=0 makes the model without"
    few = len(wrong) + len(strange) <= FEW
    if few and (wrong or len(strange) <= 2):
        return ""
    relatives = _relatives(resolved.name) if set(found) & set(expected) else ()
    if few:  # of all of an attention's tensors, say: the same network with another or without
        relatives = [name for name in relatives if name.rpartition("_")[2] == resolved.name.rpartition("_")[2]]
    blocks = entry(resolved.name).naming.blocks
    if blocks:  # to look at every relative takes long
        sizes = _stage_sizes(blocks, found)
        relatives = [name for name in relatives if getattr(create_model(name), "stage_sizes", sizes) == sizes]
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

    pairs = _infer(found, shapes, name, None, {}).pairs
    expected = {pair.key: pair.torch_shape for pair in pairs}
    return not _differences(shapes, expected, {pair.key for pair in pairs if pair.path[0] == COUNTS})
