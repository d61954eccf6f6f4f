"""Which PyTorch tensor each Flax parameter is: a family's rules (`eca_jax.models.naming`), used in both directions.

The rules turn the path of a Flax *module* into the name of the PyTorch module: `layer1_0/downsample_conv` has to become
`layer1.0.downsample.0`.

The other direction needs no rules of its own. The model's own tree lists every path it has, so `correspondence`
is a finite list of pairs, which `from_torch` reads from right to left and `to_torch` from left to right.

How a tensor is transposed follows from the kind of the parameter (`LAYOUTS`), never from its name in PyTorch.
"""

import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from eca_jax.models.inputs import channels_of
from eca_jax.models.naming import Rules
from eca_jax.models.registry import entry, list_models

Path = tuple[str, ...]
Shape = tuple[int, ...]


class Layout(NamedTuple):
    """PyTorch's axes of a parameter: axis i is the Flax axis `axes[i]`, then `trailing` axes of size 1."""

    axes: tuple[int, ...]
    trailing: int = 0

    def torch_shape(self, shape: Shape) -> Shape:
        """The shape in PyTorch of a parameter that has `shape` in Flax."""
        return tuple(shape[axis] for axis in self.axes) + (1,) * self.trailing

    def flax_shape(self, shape: Shape) -> Shape | None:
        """The shape in Flax of a tensor that has `shape` in PyTorch; None if it is no tensor of this layout."""
        kept = len(self.axes)
        if len(shape) != kept + self.trailing or any(size != 1 for size in shape[kept:]):
            return None
        return tuple(shape[self.axes.index(axis)] for axis in range(kept))

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        return np.transpose(value, self.axes).reshape(self.torch_shape(value.shape))

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        kept = tensor.reshape(tensor.shape[: len(self.axes)])
        return np.transpose(kept, [self.axes.index(axis) for axis in range(len(self.axes))])


class CropLayout(Layout):
    """Of a dense layer on crops of 7x7, which PyTorch flattens to one axis: channels, rows, columns."""

    side = 7

    def torch_shape(self, shape: Shape) -> Shape:
        first, *rest = super().torch_shape(shape)
        return first, math.prod(rest)

    def flax_shape(self, shape: Shape) -> Shape | None:
        if len(shape) != 2 or shape[1] % self.side**2:
            return None
        return super().flax_shape(self._unflattened(shape))

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        return super().to_flax(tensor.reshape(self._unflattened(tensor.shape)))

    def _unflattened(self, shape: Shape) -> Shape:
        return shape[0], shape[1] // self.side**2, self.side, self.side


class SwappedLayout(Layout):
    """Of a convolution whose input channels PyTorch has in the other order: HWIO, OIHW."""

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        return super().to_torch(value)[:, ::-1]

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        return super().to_flax(tensor)[:, :, ::-1]


# By the parameter's name in Flax and its number of axes; whatever is not here has the same axes in both.
LAYOUTS = {
    ("kernel", 4): Layout((3, 2, 0, 1)),  # convolution, depthwise and grouped too: HWIO, OIHW
    ("kernel", 3): Layout((2, 1, 0)),  # convolution along channels: (k, I, O), (O, I, k)
    ("kernel", 2): Layout((1, 0)),  # dense: (in, out), (out, in)
    ("gain", 1): Layout((0,), trailing=3),  # of weight-standardised convolutions: (O,), (O, 1, 1, 1)
    ("upsample_kernel", 4): Layout((2, 3, 0, 1)),  # transposed convolution: HWIO, IOHW
    ("crop_kernel", 4): CropLayout((3, 2, 0, 1)),  # dense on crops: (S, S, C, out), (out, C * S * S)
}
# A dense layer that the original writes as a 1x1 convolution: (in, out), (out, in, 1, 1).
POINTWISE = Layout((1, 0), trailing=2)
SWAPPED = SwappedLayout((3, 2, 0, 1))

# Names of the tensors within a module; any other name is the same in both.
LEAVES = {
    "kernel": "weight",
    "upsample_kernel": "weight",
    "crop_kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}

# BatchNorm's count of training batches, an int64 scalar that PyTorch keeps beside the running statistics and that
# nothing here uses. Variables hold it only where it came along with PyTorch tensors and is not zero.
COUNTS = "num_batches_tracked"


# Every format that some model's weights have; its own rules are with each family (`eca_jax.models.naming`).
FORMATS = tuple(dict.fromkeys(format for name in list_models() for format in entry(name).naming.formats))


@dataclasses.dataclass(frozen=True)
class Pair:
    """One tensor in both worlds.

    Attributes:
      path: of the variable, collection first: ("params", "layer1_0", "conv1", "kernel").
      key: of the tensor: "layer1.0.conv1.weight".
      shape: in Flax.
      layout: how the one becomes the other.
    """

    path: Path
    key: str
    shape: Shape
    layout: Layout

    @property
    def torch_shape(self) -> Shape:
        return self.layout.torch_shape(self.shape)


def correspondence(model: nn.Module, image_size: int, rules: Rules) -> list[Pair]:
    """Every tensor of `model`, in the order of PyTorch's `state_dict` (the order in which the model runs).

    Nothing is computed: the tree is the abstract result of `model.init` on one image of `image_size` pixels.

    Raises:
      ValueError: two variables of the model get the same key.
    """
    shapes = variable_shapes(model, image_size)
    modules = {path[1:-1]: rank for rank, path in reversed(list(enumerate(shapes)))}
    pairs = []
    for path in sorted(shapes, key=lambda path: modules[path[1:-1]]):  # statistics beside their parameters
        pairs.append(_pair(path, shapes[path], rules))
        if path[0] == "batch_stats" and path[-1] == "var":
            pairs.append(_pair((COUNTS, *path[1:-1], COUNTS), (), rules))
    keys = [pair.key for pair in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the names give two variables of the model the key {twice}")
    return pairs


def variable_shapes(model: nn.Module, image_size: int) -> dict[Path, Shape]:
    """Paths and shapes of the model's variables, in the order in which the model creates them."""
    order: list[Path] = []

    def init(key: jax.Array) -> Any:
        variables = model.init(key, jnp.zeros((1, image_size, image_size, channels_of(model))), train=False)
        order.extend(flatten_dict(variables))  # here, since JAX sorts the dictionaries that leave a trace
        return variables

    shapes = flatten_dict(jax.eval_shape(init, jax.random.key(0)))
    return {path: shapes[path].shape for path in order}


def _pair(path: Path, shape: Shape, rules: Rules) -> Pair:
    module, leaf = "/".join(path[1:-1]), path[-1]
    layout = LAYOUTS.get((leaf, len(shape)), Layout(tuple(range(len(shape)))))
    for rule in rules:
        module, matches = re.subn(rule.pattern, rule.replacement, module)
        if matches and leaf == "kernel":
            layout = POINTWISE if rule.pointwise else SWAPPED if rule.swapped else layout
    key = ".".join(filter(None, (module.replace("/", "."), LEAVES.get(leaf, leaf))))
    return Pair(path, key, shape, layout)
