"""PyTorch state dicts to Flax variables and back, strict in both directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from eca_jax.weights.torch.names import COUNTS, Pair
from eca_jax.weights.torch.resolve import Resolved, resolve, resolve_variables, without_classifier

# What nn.DataParallel and torch.compile put before every key of the model that they wrap.
WRAPPERS = ("module.", "_orig_mod.")


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
    state_dict: Mapping[str, Any], name: str, *, format: str | None = None, partial: bool = False, **overrides: Any
) -> tuple[dict[str, Any], Resolved]:
    """`from_torch`, and which model the tensors turned out to be of.

    Args:
      partial: the classifier or the attention may be missing, all of it, from the tensors and then from the variables.
    """
    state_dict = unwrapped(state_dict)
    resolved = resolve(state_dict, name, format, partial=partial, **overrides)
    by_key = {pair.key: pair for pair in resolved.pairs}
    flat = {by_key[key].path: _to_flax(tensor, by_key[key]) for key, tensor in state_dict.items()}
    if not any(value for path, value in flat.items() if path[0] == COUNTS):
        flat = {path: value for path, value in flat.items() if path[0] != COUNTS}
    ordered = {pair.path: flat[pair.path] for pair in resolved.pairs if pair.path in flat}
    return unflatten_dict(without_classifier(ordered, resolved)), resolved


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
