"""Models by name. Importing this registers every family."""

from eca_jax.models import byobnet, mobilenet_v2, nfnet, resnet, timm_resnet, vovnet  # noqa: F401
from eca_jax.models.detection import register  # noqa: F401
from eca_jax.models.inputs import Preprocessing
from eca_jax.models.registry import accepts, create_model, list_models, preprocessing

__all__ = ["Preprocessing", "accepts", "create_model", "list_models", "preprocessing"]
