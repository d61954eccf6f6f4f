"""`eca_jax.save`: a model's weights on disk, in the form that the ending of the path asks for."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.models import preprocessing
from eca_jax.models.registry import identify
from eca_jax.weights import store
from eca_jax.weights.card import Card
from eca_jax.weights.load import Weights
from eca_jax.weights.torch.names import COUNTS
from eca_jax.weights.torch.release import Trained, write_release_checkpoint
from eca_jax.weights.torch.resolve import resolve_variables
from eca_jax.weights.torch.state_dict import to_torch
from eca_jax.weights.torch.writer import torch_state_dict, write_pickle, write_safetensors

SAFETENSORS, RELEASE = ".safetensors", ".pth.tar"
PICKLES = (".pth", ".pt")


def save(
    path: str | os.PathLike,
    model: str | nn.Module | Card,
    variables: Mapping[str, Any],
    *,
    class_names: Sequence[str] | None = None,
    format: str | None = None,
    **options: Any,
) -> None:
    """Writes weights so that `eca_jax.load(path)` gives them back, with all that belongs to them.

    Args:
      path: `.safetensors`, `.pth` and `.pt` are PyTorch files, which PyTorch reads as state dicts; `.pth.tar` is one in
        the form of the released training script, for its `--resume`. Without an ending it is a weights directory.
      model: its name, the module, or a card.
      variables: {"params": ..., "batch_stats": ...} of arrays; whole.
      class_names: one a class; None keeps the card's.
      format: of the names in a PyTorch file; None is the model's own.
      **options: as for `create_model`, beside a name.

    Raises:
      ValueError: the variables are not those of the model, an option that no file can hold, or an unknown ending.
      ImportError: `.pth` and `.pth.tar` need PyTorch.
      OSError: it cannot be written.
    """
    card = _card(model, options)
    if class_names is not None:
        card = dataclasses.replace(card, class_names=tuple(class_names))
    flat = {name: np.asarray(value) for name, value in flatten_dict(dict(variables)).items()}
    resolved = resolve_variables(flat, card.model, format, **card.options)
    card = dataclasses.replace(card, options=resolved.options)
    counted = {name: value for name, value in flat.items() if name[0] == COUNTS}
    plain = {name: value for name, value in flat.items() if name[0] != COUNTS}
    write(path, card, unflatten_dict(plain), unflatten_dict(counted), format=format)


def convert(
    weights: Weights, path: str | os.PathLike, *, format: str | None = None, trained: Trained | None = None
) -> None:
    """Writes what `read_weights` read; see `save`. `trained` is for the release's form."""
    write(path, weights.card, weights.variables, weights.counters, format=format, trained=trained)


def write(
    path: str | os.PathLike,
    card: Card,
    variables: Mapping[str, Any],
    counters: Mapping[str, Any],
    *,
    format: str | None = None,
    trained: Trained | None = None,
) -> None:
    """Writes variables of float32 that are those of the card's model; see `save`."""
    ending = ending_of(path)
    if not ending:
        counts = flatten_dict(dict(counters))
        beside = {COUNTS: {"/".join(name[1:-1]): int(count) for name, count in counts.items()}} if counts else {}
        store.save_directory(path, variables, card, beside)
        return
    tensors = to_torch({**variables, **counters}, card.model, format=format, **card.options)
    if ending == SAFETENSORS:
        write_safetensors(path, tensors, card)
    elif ending == RELEASE:
        write_release_checkpoint(path, tensors, card, format, trained or Trained())
    else:
        write_pickle(path, torch_state_dict(tensors, card))


def ending_of(path: str | os.PathLike) -> str:
    """The kind of file that a path asks for, "" for a directory.

    Raises:
      ValueError: it looks like the name of a file of another kind.
    """
    name = os.path.basename(os.fspath(path).rstrip("/"))
    for ending in (RELEASE, SAFETENSORS, *PICKLES):
        if name.lower().endswith(ending):
            return ending
    if unknown := re.search(r"\.[A-Za-z]\w*$", name.lstrip(".")):
        known = ", ".join((SAFETENSORS, *PICKLES, RELEASE))
        raise ValueError(
            f"{path}: weights are not written as {unknown[0]}, but as {known} or a directory without ending"
        )
    return ""


def _card(model: str | nn.Module | Card, options: Mapping[str, Any]) -> Card:
    if isinstance(model, Card):
        return dataclasses.replace(model, options={**model.options, **options})
    name, own = (model, {}) if isinstance(model, str) else identify(model)
    return Card(name, {**own, **options}, preprocessing(name))
