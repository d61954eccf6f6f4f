"""Import torchvision and timm beside a CPU build of PyTorch: the peers that parity and speed are measured against.

Package registries serve a CPU build of PyTorch but only a CUDA build of torchvision, whose compiled operators
cannot load beside it; ``import torchvision`` (and with it timm) then ends in "operator torchvision::nms does not
exist". Nothing that this project compares with (transforms, classification models) uses these operators, so
declaring the two that torchvision's import looks up is enough. Where the real operators load, nothing is declared.
"""

import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision() -> ModuleType:
    """Returns torchvision, whether or not its compiled operators load. ImportError where it is not installed."""
    _declare_missing_operators()
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """Returns timm, which imports torchvision. ImportError where either is not installed."""
    import_torchvision()
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ImportError(f"timm is needed here and cannot be imported ({error}): pip install timm") from None


@functools.cache
def _declare_missing_operators() -> Any:
    for name in ("torch", "torchvision"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"{name} is needed here and is not installed: pip install torch torchvision")
    import torch

    found = importlib.util.find_spec("torchvision")
    package = Path(found.origin if found and found.origin else "").parent
    for library in sorted(package.glob("_C*")):
        try:
            torch.ops.load_library(str(library))
        except OSError:  # built for another PyTorch; torchvision itself will fail to load it, and say nothing
            continue
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.split("(")[0]):
            library.define(schema)
    return library  # the declarations live as long as this object: the cache keeps it
