"""Writing files that PyTorch reads, with the card inside, so that nothing about the model is lost on the way."""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from eca_jax.files import replacing
from eca_jax.weights.card import CARD_KEY, Card


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], card: Card) -> None:
    """Writes a bare state dict. Raises OSError where it cannot be written."""
    from safetensors.numpy import save

    content = save(dict(tensors), {"format": "pt", CARD_KEY: json.dumps(card.to_json())})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_pickle(path: str | os.PathLike, content: Any) -> None:
    """`torch.save`. Raises ImportError where PyTorch is not installed, OSError where the file cannot be written."""
    torch = import_torch(f"writing {path}")
    with replacing(path) as temporary:
        torch.save(content, os.fspath(temporary))


def torch_state_dict(tensors: Mapping[str, np.ndarray], card: Card, prefix: str = "") -> "OrderedDict[str, Any]":
    """A state dict of torch tensors. Raises ImportError where PyTorch is not installed."""
    state_dict = OrderedDict((prefix + key, tensor) for key, tensor in as_torch(tensors).items())
    setattr(state_dict, CARD_KEY, json.dumps(card.to_json()))
    return state_dict


def as_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """NumPy arrays as torch tensors that share their memory; types that PyTorch does not take become float32."""
    torch = import_torch("a comparison with PyTorch")
    arrays = {key: np.asarray(tensor) for key, tensor in tensors.items()}
    arrays = {key: array.astype(np.float32) if array.dtype.kind == "V" else array for key, array in arrays.items()}
    return {key: torch.from_numpy(array if array.flags.writeable else array.copy()) for key, array in arrays.items()}


def import_torch(what: str) -> ModuleType:
    """torch, or an ImportError that says what it is needed for."""
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{what} needs PyTorch, which is not installed: pip install torch (a .safetensors file needs none)"
        ) from None
    return torch
