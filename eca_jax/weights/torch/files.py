"""PyTorch files: reading them without running what is in them, writing them under a temporary name first.

`.safetensors` needs no PyTorch. Everything else is `torch.load(weights_only=True)`, which restores tensors and plain
containers and refuses any other object that a pickle may name.
"""

import contextlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

TORCH_SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin")
SAFETENSORS = ".safetensors"
# Where training scripts put the state dict beside the epoch, the optimizer and so on.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")


def is_weights_file(path: str | os.PathLike) -> bool:
    """Whether a path names a PyTorch file, by its suffix."""
    return str(path).endswith((SAFETENSORS, *TORCH_SUFFIXES))


def read_state_dict(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a PyTorch file, and what lies beside them.

    Returns:
      tensors by name (torch tensors on the CPU, mapped from the file where its format allows it; NumPy arrays from
      `.safetensors`), and the checkpoint's other entries: "arch", "epoch", ... ({} for a bare state dict).

    Raises:
      FileNotFoundError: no such file.
      ValueError: damaged, or a pickle that would run code, or no state dict in it.
      ImportError: PyTorch is needed and not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if str(path).endswith(SAFETENSORS):
        return _read_safetensors(path)
    content = _read_pickle(path)
    beside: dict[str, Any] = {}
    if isinstance(content, Mapping):
        for key in STATE_DICT_KEYS:
            if isinstance(content.get(key), Mapping):
                beside = {other: value for other, value in content.items() if other != key}
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(hasattr(tensor, "shape") for tensor in content.values()):
        what = f"entries {', '.join(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} holds no state dict but {what[:200]}")
    return dict(content), beside


def write_state_dict(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a bare state dict as `.safetensors`, or for any other suffix as `torch.save` does.

    Raises ImportError where PyTorch is needed and not installed.
    """
    if str(path).endswith(SAFETENSORS):
        from safetensors.numpy import save_file

        with replacing(path) as temporary:
            save_file(dict(tensors), temporary, metadata={"format": "pt"})
    else:
        save_pickle(path, as_torch(tensors))


def save_pickle(path: str | os.PathLike, content: Any) -> None:
    """`torch.save`, under a temporary name first."""
    torch = import_torch(path)
    with replacing(path) as temporary:
        torch.save(content, temporary)


def as_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """NumPy arrays as torch tensors that share their memory."""
    import torch

    return {key: torch.from_numpy(array) for key, array in tensors.items()}


def import_torch(path: str | os.PathLike) -> ModuleType:
    """torch, or an ImportError that says what it is needed for."""
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path} needs PyTorch, which is not installed: pip install torch (a .safetensors file needs none)"
        ) from None
    return torch


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` at the end; removed where the writing fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return file.get_tensors(), dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no .safetensors file ({error})") from None


def _read_pickle(path: Path) -> Any:
    torch = import_torch(path)
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL:? (\S+)", str(error), re.IGNORECASE)
        if named:
            raise ValueError(
                f"{path} is refused: reading it would run code ({named[1]}); only tensors and plain containers "
                "are read, such as a model's state_dict()"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # torch raises EOFError, RuntimeError, KeyError and more for damaged files
        raise _damaged(path, error) from None


def _harmless() -> list[Any]:
    """What training scripts leave in checkpoints beside tensors: a NumPy accuracy, the command line's Namespace."""
    import argparse

    scalar = np.float64(0).__reduce__()[0]
    return [argparse.Namespace, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)), scalar]


def _damaged(path: Path, error: Exception) -> ValueError:
    paragraphs = [text.strip() for text in str(error).split("\n\n") if text.strip()] or [type(error).__name__]
    # torch explains weights_only at length before it comes to the point.
    reason = paragraphs[paragraphs[0].startswith("Weights only") and len(paragraphs) > 1].splitlines()[0]
    reason = reason.split(". ")[0].rstrip(".")
    return ValueError(f"{path} is damaged or truncated, or no PyTorch file ({reason})")
