"""`eca_jax.load`: a model and its weights, from whatever holds them."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from etils import epath
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.models.registry import create_model
from eca_jax.weights import store
from eca_jax.weights.torch.files import read_state_dict
from eca_jax.weights.torch.names import COUNTS
from eca_jax.weights.torch.state_dict import Resolved, from_torch_resolved, resolve_variables, without_classifier


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights as they were read.

    Attributes:
      model: the name, options and tensors of the model that they belong to.
      variables: {"params", "batch_stats"}, and "num_batches_tracked" where PyTorch's counters came along.
      meta: what lay beside them: a workdir's config and "step", or a checkpoint's "arch", "epoch", ...
      tensors: of a PyTorch file, as they are in the file; None for a directory.
    """

    model: Resolved
    variables: dict[str, Any]
    meta: Mapping[str, Any]
    tensors: dict[str, Any] | None = None


def load(
    name: str | None,
    path: str | os.PathLike,
    *,
    scheme: str | None = None,
    step: int | str | None = None,
    ema: bool = True,
    **overrides: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """A model with its weights, ready for `model.apply(variables, images)`.

    Args:
      name: of the model; None takes the one that a workdir, a weights directory or a release checkpoint names.
      path: a PyTorch file (`.pth`, `.pth.tar`, `.pt`, `.safetensors`), a training workdir, or a weights directory.
      scheme: of a PyTorch file's names: "ecanet", "torchvision" or "timm"; None is the model's own.
      step: of a workdir: a step, or "best" (None means the same).
      ema: of a workdir: take the moving average of the weights where the run kept one.
      **overrides: as for `create_model`. What is not given is taken from the weights: the number of classes and
        the kernel sizes of ECA from the tensors, other options from a directory's config.json. With
        `num_classes=0` or `features_only=True` the classifier's weights are left out.

    Returns:
      the model, and {"params": ..., "batch_stats": ...} of float32 NumPy arrays.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: damaged, or not the weights of this model; one line says what differs and guesses why.
      ImportError: the file needs PyTorch, which is not installed.
    """
    weights = read_weights(name, path, scheme=scheme, step=step, ema=ema, **overrides)
    variables = {collection: tree for collection, tree in weights.variables.items() if collection != COUNTS}
    return create_model(weights.model.name, **weights.model.options), variables


def read_weights(
    name: str | None,
    path: str | os.PathLike,
    *,
    scheme: str | None = None,
    step: int | str | None = None,
    ema: bool = True,
    **overrides: Any,
) -> Weights:
    """What `load` reads, with all that it leaves out. Arguments and errors are those of `load`."""
    if not epath.Path(path).exists():
        raise FileNotFoundError(f"there is no file or directory {path}")
    if epath.Path(path).is_dir():
        return _read_directory(name, path, scheme, step, ema, overrides)
    if step is not None:
        raise ValueError(f"{path} is a file: only a training workdir has steps to choose from")
    tensors, beside = read_state_dict(path)
    name = _name(name, beside.get("arch"), path)
    variables, resolved = from_torch_resolved(tensors, name, scheme=scheme, **overrides)
    return Weights(resolved, variables, beside, tensors)


def _read_directory(
    name: str | None,
    path: str | os.PathLike,
    scheme: str | None,
    step: int | str | None,
    ema: bool,
    overrides: Mapping[str, Any],
) -> Weights:
    found = store.read(path, step, ema)
    variables, meta = found.variables, {**found.content, **({} if found.step is None else {"step": found.step})}
    if name and meta.get("model") not in (None, name):
        raise ValueError(f"{path} holds {meta['model']}, not {name}")
    name = _name(name, meta.get("model"), path)
    stored = {key: meta[key] for key in ("num_classes",) if key in meta} | meta.get("overrides", {})
    stored = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    flat = flatten_dict(dict(variables))
    resolved = resolve_variables(flat, name, scheme, **{**stored, **overrides})
    counts = {(COUNTS, *module.split("/"), COUNTS): count for module, count in meta.get(COUNTS, {}).items()}
    return Weights(resolved, unflatten_dict(without_classifier(flat, resolved) | counts), meta)


def _name(given: str | None, found: Any, path: str | os.PathLike) -> str:
    if not (given or found):
        raise ValueError(f"{path} does not say of which model it is: give the model's name")
    return given or str(found)
