"""What weights are of: the description that lies beside them, and that rebuilds the model and prepares its images."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from eca_jax.models import Preprocessing
from eca_jax.models.inputs import RGB

CONFIG_FILE = "config.json"
# Under which a card lies inside of a file for PyTorch: in the metadata of .safetensors, and among the attributes of a
# pickled state dict, which is where PyTorch itself keeps what is no tensor.
CARD_KEY = "eca_jax_card"


@dataclasses.dataclass(frozen=True)
class Card:
    """The content of a `config.json` beside weights.

    Attributes:
      model: its name, as for `create_model`.
      options: the other arguments of `create_model`, `num_classes` among them.
      preprocessing: how its images are prepared, with as many channels as the options say.
      class_names: one a class, or None where nothing tells them.
      brightness: of the images it was trained on, see `eca_jax.data.brightness`; None where nothing tells.
      task: what the model was trained for.
      best: the metric that tells a better checkpoint from a worse one.
    """

    model: str
    options: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    task: str = "classification"
    best: str = "top1"
    brightness: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        channels = self.options.get("in_chans", RGB)
        object.__setattr__(self, "preprocessing", self.preprocessing.for_channels(channels))

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Raises:
          ValueError: an option that no file can hold, such as a module of one's own.
        """
        options = dict(self.options)
        content = {
            "model": self.model,
            "num_classes": options.pop("num_classes", 1000),
            "overrides": options,
            "preprocessing": self.preprocessing.to_json(),
            "task": self.task,
            "best": self.best,
        }
        if self.class_names is not None:
            content["class_names"] = list(self.class_names)
        if self.brightness is not None:
            content["brightness"] = list(self.brightness)
        for key, value in options.items():
            try:
                json.dumps(value)
            except TypeError:
                raise ValueError(
                    f"{key}={value!r} cannot be stored beside weights: only names and numbers can"
                ) from None
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Card":
        """Inverse of `to_json`; keys that are not the card's are left alone.

        Raises:
          ValueError: a key is missing, or its value is of another kind; one line.
        """
        try:
            names, brightness = content.get("class_names"), content.get("brightness")
            return cls(
                model=str(content["model"]),
                options={"num_classes": int(content["num_classes"])} | _with_tuples(content.get("overrides", {})),
                preprocessing=Preprocessing.from_json(content["preprocessing"]),
                class_names=None if names is None else tuple(names),
                task=content.get("task", "classification"),
                best=content.get("best", "top1"),
                brightness=None if brightness is None else (float(brightness[0]), float(brightness[1])),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"no description of weights: {error}") from None


def _with_tuples(value: Any) -> Any:
    """JSON has lists where the fields of modules are tuples, which can be hashed."""
    if isinstance(value, Mapping):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value
