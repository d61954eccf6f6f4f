"""ECA-Net (Efficient Channel Attention, CVPR 2020) in JAX/Flax."""

import importlib
from typing import Any

from eca_jax.version import __version__ as __version__

# Where each name is found when it is first asked for: an exported model needs no Flax, a prediction no Orbax.
_HOMES = {
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
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name] or f"{__name__}.{name}")
    value = getattr(module, name) if _HOMES[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
