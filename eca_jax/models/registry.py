"""Names of models: what each builds, and how its images are prepared."""

import dataclasses
import difflib
import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict

from eca_jax.models.inputs import Preprocessing
from eca_jax.models.naming import Naming, Rules
from eca_jax.models.network import Network


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered model.

    Attributes:
      build: called with the fields of the module to override; returns the module.
      preprocessing: of its published weights.
      weights_format: whose PyTorch names its weights have: "ecanet" (the release), "torchvision" or "timm"; of
        detectors "torchvision_detection" or "mmdet1".
      naming: those names, and the family's others.
      task: what the model is for.
    """

    build: Callable[..., nn.Module]
    preprocessing: Preprocessing
    weights_format: str
    naming: Naming
    task: str = "classification"

    def rules(self, format: str | None = None) -> Rules:
        """Of PyTorch's names in a format, its own unless given. Raises ValueError where it has no names in it."""
        return self.naming.rules(format or self.weights_format)


# Fields of every module that are not of the model itself.
_NOT_OPTIONS = {"parent", "name", "dtype"}

_ENTRIES: dict[str, Entry] = {}


def register(
    name: str,
    build: Callable[..., nn.Module],
    *,
    weights_format: str,
    naming: Naming,
    preprocessing: Preprocessing | None = None,
    task: str = "classification",
) -> None:
    """Adds a model under `name`; see `Entry`."""
    if name in _ENTRIES:
        raise ValueError(f"model {name!r} is registered twice")
    _ENTRIES[name] = Entry(build, preprocessing or Preprocessing(), weights_format, naming, task)


def entry(name: str) -> Entry:
    """The registered model of that name.

    Raises:
      ValueError: no such model; the message suggests the nearest names.
    """
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`list_models()` shows them all"
        raise ValueError(f"unknown model {name!r}: {hint}")
    return _ENTRIES[name]


def list_models(pattern: str = "*", *, task: str | None = None) -> list[str]:
    """Names of the models that match a shell pattern, of one task or (None) of all, sorted."""
    return sorted(name for name in fnmatch.filter(_ENTRIES, pattern) if task in (None, _ENTRIES[name].task))


def preprocessing(name: str) -> Preprocessing:
    """How evaluation prepares images for the model of that name. Raises ValueError for an unknown name."""
    return entry(name).preprocessing


def create_model(name: str, *, num_classes: int | None = None, dtype: Any = jnp.float32, **overrides: Any) -> nn.Module:
    """Builds a model by name.

    Args:
      name: one of `list_models()`.
      num_classes: outputs of the classifier; 0 makes the model return pooled features. None is 1000, and of detectors
        those of COCO with the background.
      dtype: of the computation; parameters, statistics and logits are float32.
      **overrides: fields of the module, such as `attention="se"` with `attention_options={"reduction": 8}`,
        `kernel_sizes=(3, 5, 5, 7)`, `small_images=True`, `in_chans=1`, `bn_group_size=64`, `features_only=True` or
        `fold=False`.

    Raises:
      ValueError: unknown name, attention or option of it (suggests the nearest), an override that the model does
        not have, or a value that none can have.
    """
    build, known = entry(name).build, _options(name)
    _check(num_classes, dtype, overrides.get("kernel_sizes"))
    if not _whole(channels := overrides.get("in_chans", 1)) or channels < 1:
        raise ValueError(f"in_chans must be a whole number of 1 or more, not {channels!r}")
    for key in overrides:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            raise ValueError(f"{name} has no option {key!r}: {hint}")
    options = overrides.get("attention_options")
    if options is not None:
        overrides["attention_options"] = FrozenDict(options)
    classes = {} if num_classes is None else {"num_classes": num_classes}
    model = build(dtype=dtype, **classes, **overrides)
    if isinstance(model, Network):
        _ = model.attention_spec  # a wrong name or option is an error here, not when the model first runs
    return model


def _check(num_classes: Any, dtype: Any, kernel_sizes: Any) -> None:
    """ValueError for values that would be puzzling errors, or none, where a network first uses them."""
    if num_classes is not None and (not _whole(num_classes) or num_classes < 0):
        raise ValueError(f"num_classes must be a whole number of 0 or more, not {num_classes!r}")
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ValueError(f"dtype must be one of floating-point numbers, 'float32' or 'bfloat16' say, not {dtype!r}")
    if kernel_sizes not in (None, "adaptive") and not (
        isinstance(kernel_sizes, Sequence) and all(map(_whole, kernel_sizes))
    ):
        raise ValueError(f"kernel_sizes must be 'adaptive' or several numbers, (3, 5, 5, 7) say, not {kernel_sizes!r}")


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def accepts(name: str, option: str) -> bool:
    """Whether `create_model(name, ...)` takes an option. Raises ValueError for an unknown name."""
    return option in _options(name)


def _options(name: str) -> set[str]:
    build = entry(name).build
    module: Any = getattr(build, "func", build)
    return {field.name for field in dataclasses.fields(module) if field.init} - {"parent", "name"}


def identify(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """The name, and the options beside it, with which `create_model` builds a module; `dtype` is not among them.

    Raises:
      ValueError: no registered name builds a module of this class.
    """
    fields = [field.name for field in dataclasses.fields(model) if field.init and field.name not in _NOT_OPTIONS]
    found = []
    for name, registered in _ENTRIES.items():
        if getattr(registered.build, "func", registered.build) is type(model):
            own = registered.build(num_classes=model.num_classes)
            differing = {key for key in fields if getattr(model, key) != getattr(own, key)}
            options = {key: getattr(model, key) for key in fields if key in differing}
            found.append((len(differing), name, {key: _plain(value) for key, value in options.items()}))
    if not found:
        raise ValueError(f"a {type(model).__name__} is no registered model: give a name of `list_models()`")
    _, name, options = min(found, key=lambda entry: entry[0])
    return name, {"num_classes": model.num_classes, **options}


def _plain(value: Any) -> Any:
    return value.unfreeze() if isinstance(value, FrozenDict) else value
