"""ECA-Net (Efficient Channel Attention, CVPR 2020) in JAX/Flax."""

import importlib
from typing import TYPE_CHECKING, Any

from eca_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from eca_jax import convert, layers, models
    from eca_jax.config import default_config
    from eca_jax.inference.detector import Detector
    from eca_jax.inference.exported import load_exported
    from eca_jax.inference.predictor import Predictor
    from eca_jax.layers import eca_kernel_size
    from eca_jax.models import create_model, list_models
    from eca_jax.weights.load import load
    from eca_jax.weights.save import save

# Where each name is found when it is first asked for: an exported model needs no Flax, a prediction no Orbax.
_HOMES = {
    "Detector": "eca_jax.inference.detector",
    "Predictor": "eca_jax.inference.predictor",
    "convert": None,
    "create_model": "eca_jax.models",
    "default_config": "eca_jax.config",
    "eca_kernel_size": "eca_jax.layers",
    "layers": None,
    "list_models": "eca_jax.models",
    "load": "eca_jax.weights.load",
    "load_exported": "eca_jax.inference.exported",
    "models": None,
    "save": "eca_jax.weights.save",
}
__all__ = [
    "Detector",
    "Predictor",
    "convert",
    "create_model",
    "default_config",
    "eca_kernel_size",
    "layers",
    "list_models",
    "load",
    "load_exported",
    "models",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name] or f"{__name__}.{name}")
    value = getattr(module, name) if _HOMES[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
