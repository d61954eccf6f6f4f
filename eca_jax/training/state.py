"""What training carries from step to step."""

from typing import Any

import jax
from flax import struct

Variables = dict[str, Any]


class TrainState(struct.PyTreeNode):
    """Everything a step reads and replaces; all of it goes into a checkpoint.

    Attributes:
      step: int32 scalar, the number of updates done.
      params: the model's parameters, float32.
      collections: its other variables, {"batch_stats": ...} or {}.
      opt_state: the optimizer's state.
      ema: an exponential moving average of the variables, or None.
    """

    step: jax.Array
    params: Variables
    collections: dict[str, Variables]
    opt_state: Any
    ema: Variables | None = None

    @property
    def variables(self) -> Variables:
        """What `model.apply` takes: {"params": ..., "batch_stats": ...}."""
        return {"params": self.params, **self.collections}
