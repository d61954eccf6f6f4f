"""`eca_jax.load`: a model and its weights, from whatever holds them."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.files import absolute
from eca_jax.models import create_model, list_models, preprocessing
from eca_jax.weights import store
from eca_jax.weights.card import CONFIG_FILE, Card
from eca_jax.weights.channels import adapted, described
from eca_jax.weights.class_names import class_names
from eca_jax.weights.torch import folder
from eca_jax.weights.torch.find import find
from eca_jax.weights.torch.names import COUNTS
from eca_jax.weights.torch.reader import embedded_card, read_checkpoint
from eca_jax.weights.torch.resolve import (
    MismatchError,
    expected_keys,
    input_kernel,
    pairs_of,
    resolve_variables,
    without_classifier,
)
from eca_jax.weights.torch.state_dict import from_torch_resolved, unwrapped

# Entries of a checkpoint that say which model it is of; torchvision's scripts keep the command line, too.
_NAMES = ("arch", "architecture", "model_name")
_NAMES_IN_ARGUMENTS = ("arch", "model", "model_name")


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model with its weights, and what is known beside them.

    Attributes:
      card: the model's name and options, how its images are prepared, the names of its classes.
      model: the module.
      variables: what `model.apply` takes: {"params", "batch_stats"} of float32 NumPy arrays.
      counters: {"num_batches_tracked": ...} where PyTorch's counters came along, or {}; `to_torch` takes them beside
        the variables.
      format: of a PyTorch file, whose names its tensors have; None for a directory.
      tensors: of a PyTorch file, the model's tensors as they are in the file; None for a directory.
      step: of a workdir, the step the weights are from.
      averaged: of a workdir, they are the moving average that the run kept.
      remarks: what a person should know about how they were read, a line each.
    """

    card: Card
    model: nn.Module
    variables: dict[str, Any]
    counters: dict[str, Any] = dataclasses.field(default_factory=dict)
    format: str | None = None
    tensors: dict[str, np.ndarray] | None = None
    step: int | None = None
    averaged: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def class_names(self) -> list[str] | None:
        """One a class, for people; None where nothing tells them."""
        return class_names(self.card.class_names, self.model.num_classes)

    def with_class_names(self, names: Sequence[str]) -> "Weights":
        """The same with other names. Raises ValueError unless there is one for each class."""
        if len(names) != self.model.num_classes:
            raise ValueError(f"there are names of {len(names)} classes, the model has {self.model.num_classes}")
        return dataclasses.replace(self, card=dataclasses.replace(self.card, class_names=tuple(names)))


def load(path: str | os.PathLike, model: str | None = None, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A model with its weights, ready for `model.apply(variables, images)`.

    What was chosen or left out of a file that holds more than the model's weights is told by a warning.

    Args:
      path: a PyTorch file (`.pth`, `.pth.tar`, `.pt`, `.safetensors`, whatever its name), a folder of the Hugging Face
        hub, a training workdir, or a weights directory.
      model: its name; None takes the one that lies with the weights: in a workdir, a weights directory, a file that
        `eca_jax.save` wrote, a release checkpoint.
      **options: `dtype` and other arguments of `create_model`, and those of `read_weights`. What is not given is taken
        from the weights: the number of classes, the kernel sizes of ECA and the image's channels from the tensors,
        other options from what lies beside them. With `num_classes=0` or `features_only=True` the classifier's weights
        are left out; with another `in_chans` than theirs, weights of 3 are adapted, see `eca_jax.weights.channels`.

    Returns:
      the model, and {"params": ..., "batch_stats": ...} of float32 NumPy arrays.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: damaged, or not the weights of this model; one line says what differs and guesses why.
      ImportError: a workdir, and Orbax is not installed.
    """
    weights = read_weights(path, model, **options)
    warn_of(path, weights)
    return weights.model, weights.variables


def warn_of(path: str | os.PathLike, weights: Weights) -> None:
    """Warns, for the caller of the caller, of what was chosen and left out."""
    for remark in weights.remarks:
        warnings.warn(f"{path}: {remark}", stacklevel=3)


def read_weights(
    path: str | os.PathLike,
    model: str | None = None,
    *,
    dtype: Any = jnp.float32,
    format: str | None = None,
    step: int | str | None = None,
    ema: bool = True,
    part: str | None = None,
    partial: bool = False,
    in_chans: int | None = None,
    **overrides: Any,
) -> Weights:
    """What `load` reads, with all that it leaves out.

    Args:
      path, model, **overrides: as for `load`.
      dtype: of the computation.
      format: of a PyTorch file's names: "ecanet", "torchvision" or "timm"; None is the model's own.
      step: of a workdir: a step, or "best" (None means the same).
      ema: take the moving average of the weights where it lies beside them.
      part: of a PyTorch file that holds the model's tensors more than once: the entry or the prefix of those to take.
      partial: the weights may be another model's by name; the classifier and the attention may be missing from them,
        all of it, and then are from the variables.
      in_chans: channels of the images; None is those of the weights.

    Raises:
      FileNotFoundError, ValueError, ImportError: as `load` does.
    """
    weights = _read(path, model, dtype, format, step, ema, part, partial, overrides)
    return weights if in_chans is None else _for_channels(weights, in_chans, path)


def _read(
    path: str | os.PathLike,
    model: str | None,
    dtype: Any,
    format: str | None,
    step: int | str | None,
    ema: bool,
    part: str | None,
    partial: bool,
    overrides: Mapping[str, Any],
) -> Weights:
    where = absolute(path)
    if not where.exists():
        raise FileNotFoundError(f"there is no file or directory {path}")
    if where.name == store.WEIGHTS_FILE and (where.parent / CONFIG_FILE).is_file():
        where = where.parent  # the inside of a weights directory
    if where.is_dir() and not folder.is_folder(where):
        return _read_directory(where, model, dtype, step, ema, partial, overrides)
    if step is not None:
        raise ValueError(f"{path} holds one set of weights: only a training workdir has steps to choose from")
    if where.is_dir():
        content, card = folder.read_folder(where)
    else:
        content = read_checkpoint(where)
        card = _embedded(content, path)
    found = card.model if card else _named(content)
    name = model if model and partial else _name(model, found, path)
    if card and card.model == name:
        overrides = {**card.options, **overrides}
    forgiving = partial or overrides.get("num_classes") == 0 or bool(overrides.get("features_only"))
    tensors, remarks = _find(content, path, name, format, overrides, ema=ema, part=part, forgiving=forgiving)
    variables, resolved = from_torch_resolved(tensors, name, format=format, partial=partial, **overrides)
    counters = {key: variables.pop(key) for key in (COUNTS,) if key in variables}
    beside = card if card and card.model == name else Card(name, {}, preprocessing(name))
    return Weights(
        dataclasses.replace(beside, options=resolved.options),
        create_model(name, dtype=dtype, **resolved.options),
        variables,
        counters,
        resolved.format,
        tensors,
        remarks=(*remarks, *_rounded(tensors), *_not_finite(variables)),
    )


def _read_directory(
    path: os.PathLike,
    name: str | None,
    dtype: Any,
    step: int | str | None,
    ema: bool,
    partial: bool,
    overrides: Mapping[str, Any],
) -> Weights:
    stored = store.read(path, step, ema)
    card, flat = stored.card, flatten_dict(stored.variables)
    name = name if name and partial else _name(name, card.model, path)
    if name != card.model:
        card = dataclasses.replace(card, model=name, options={})
    try:
        resolved = resolve_variables(flat, name, partial=partial, **{**card.options, **overrides})
    except MismatchError as error:
        raise MismatchError(f"{path} holds another model: {error}") from None
    counts = {(COUNTS, *key.split("/"), COUNTS): count for key, count in stored.content.get(COUNTS, {}).items()}
    kept = without_classifier(flat | counts, resolved)
    return Weights(
        dataclasses.replace(card, options=resolved.options),
        create_model(name, dtype=dtype, **resolved.options),
        unflatten_dict({key: value for key, value in kept.items() if key[0] != COUNTS}),
        unflatten_dict({key: value for key, value in kept.items() if key[0] == COUNTS}),
        step=stored.step,
        averaged=stored.averaged,
        remarks=tuple(_not_finite(stored.variables)),
    )


def _for_channels(weights: Weights, in_chans: int, path: str | os.PathLike) -> Weights:
    """The same for images of so many channels. ValueError where they are not of 3, or the model has no such option."""
    card, there = weights.card, weights.card.preprocessing.channels
    options = {**card.options, "in_chans": in_chans}
    model = create_model(card.model, dtype=weights.model.dtype, **options)
    if in_chans == there:
        return weights
    flat = flatten_dict(weights.variables)
    place = input_kernel(pairs_of(card.model, None, card.options)).path
    try:
        flat[place] = adapted(flat[place], in_chans)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return dataclasses.replace(
        weights,
        card=dataclasses.replace(card, options=options),
        model=model,
        variables=unflatten_dict(flat),
        tensors=None,  # those of the file are of other channels
        remarks=(*weights.remarks, described(in_chans)),
    )


def _find(
    content: Any,
    path: str | os.PathLike,
    name: str,
    format: str | None,
    overrides: Mapping[str, Any],
    **how: Any,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    try:
        found = find(content, expected_keys(name, format, overrides), **how)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    return unwrapped(found.tensors), found.remarks


def _embedded(content: Any, path: str | os.PathLike) -> Card | None:
    try:
        return embedded_card(content)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def _name(given: str | None, found: str | None, path: str | os.PathLike) -> str:
    if not (given or found):
        raise ValueError(f"{path} does not say of which model it is: give the model's name")
    if given and found and given != found and found in list_models():
        raise ValueError(f"{path} holds {found}, not {given}")
    return given or str(found)


def _named(content: Any) -> str | None:
    """The model that a checkpoint says it is of."""
    if not isinstance(content, Mapping):
        return None
    arguments = content.get("args")
    arguments = arguments if isinstance(arguments, Mapping) else getattr(arguments, "__dict__", {})
    said = [*(content.get(key) for key in _NAMES), *(arguments.get(key) for key in _NAMES_IN_ARGUMENTS)]
    names = [name for name in said if isinstance(name, str)]
    return next((name for name in names if name in list_models()), names[0] if names else None)


def _rounded(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """What becomes of tensors that are not of float32."""
    kinds = sorted({tensor.dtype.name for tensor in tensors.values()})
    half = [f"{kind} tensors become float32, every value kept" for kind in kinds if kind in ("bfloat16", "float16")]
    return half + (["float64 tensors become float32, rounded"] if "float64" in kinds else [])


def _not_finite(variables: Mapping[str, Any]) -> list[str]:
    """A word about numbers that make every answer NaN."""
    arrays = flatten_dict(dict(variables), sep="/")
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    return [f"{len(bad)} arrays hold NaN or infinity ({bad[0]})"] if bad else []
