"""Which PyTorch tensor each Flax parameter is: one table of names per naming scheme, used in both directions.

A table turns the path of a Flax *module* into the name of the PyTorch module. It is an ordered list of `Rule`s, each
a regular expression and what replaces it, applied one after another to the whole path; what is left of slashes
becomes dots. Nothing else is needed, because submodules are named after their PyTorch counterparts:
`layer1_0/downsample_conv` has to become `layer1.0.downsample.0`.

The other direction needs no rules of its own. The model's own tree lists every path it has, so `correspondence`
is a finite list of pairs, which `from_torch` reads from right to left and `to_torch` from left to right.

How a tensor is transposed follows from the kind of the parameter (`LAYOUTS`), never from its name in PyTorch.
"""

import dataclasses
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from eca_jax.models.detection import names as detection

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


class Rule(NamedTuple):
    """`re.sub(pattern, replacement, path)`, and where the pattern occurs, how the module's kernel is laid out."""

    pattern: str
    replacement: str
    kernel_layout: Layout | None = None


_RESNET = (
    Rule(r"^layer(\d+)_(\d+)/", r"layer\1/\2/"),
    Rule(r"/downsample_conv$", r"/downsample/0"),
    Rule(r"/downsample_bn$", r"/downsample/1"),
)
_MOBILENET_V2 = (
    Rule(r"^features_(0|18)_conv$", r"features/\1/0"),
    Rule(r"^features_(0|18)_bn$", r"features/\1/1"),
    # The first block does not expand, so that what follows moves up one place.
    Rule(r"^features_1/depthwise_conv$", r"features/1/conv/0/0"),
    Rule(r"^features_1/depthwise_bn$", r"features/1/conv/0/1"),
    Rule(r"^features_1/project_conv$", r"features/1/conv/1"),
    Rule(r"^features_1/project_bn$", r"features/1/conv/2"),
    Rule(r"^features_1/(eca|se)/", r"features/1/conv/3/"),
    Rule(r"^features_(\d+)/expand_conv$", r"features/\1/conv/0/0"),
    Rule(r"^features_(\d+)/expand_bn$", r"features/\1/conv/0/1"),
    Rule(r"^features_(\d+)/depthwise_conv$", r"features/\1/conv/1/0"),
    Rule(r"^features_(\d+)/depthwise_bn$", r"features/\1/conv/1/1"),
    Rule(r"^features_(\d+)/project_conv$", r"features/\1/conv/2"),
    Rule(r"^features_(\d+)/project_bn$", r"features/\1/conv/3"),
    Rule(r"^features_(\d+)/(eca|se)/", r"features/\1/conv/4/"),
    Rule(r"^classifier$", r"classifier/1"),
)
# Squeeze-and-Excitation as the release's ancestor (moskomule/senet.pytorch) names it: one Sequential.
_SE_SEQUENTIAL = (
    Rule(r"(^|/)fc1$", r"\1fc/0"),
    Rule(r"(^|/)fc2$", r"\1fc/2"),
)
# timm's own families have timm's names, where a number is a place in a Sequential: stages_0_blocks_1/conv_mid_0.
_TIMM = (
    Rule(r"^(stages_\d+_\d+)/downsample_conv$", r"\1/downsample/conv"),
    *_RESNET,
    Rule(r"_(\d+)(?=[_/]|$)", r"/\1"),
    Rule(r"(/\d+)_", r"\1/"),
    Rule(r"/se/fc([12])$", r"/se/fc\1", kernel_layout=POINTWISE),
)

_BODY = detection.under_body(rule[:2] for rule in (*_RESNET, *_MOBILENET_V2, *_SE_SEQUENTIAL))

SCHEMES: dict[str, tuple[Rule, ...]] = {
    "torchvision": (*_RESNET, *_MOBILENET_V2),
    "ecanet": (*_RESNET, *_MOBILENET_V2, *_SE_SEQUENTIAL),
    "timm": _TIMM,
    **{name: tuple(Rule(*pair) for pair in (*_BODY, *pairs)) for name, pairs in detection.SCHEMES.items()},
}


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


def correspondence(model: nn.Module, image_size: int, scheme: str) -> list[Pair]:
    """Every tensor of `model`, in the order of PyTorch's `state_dict` (the order in which the model runs).

    Nothing is computed: the tree is the abstract result of `model.init` on one image of `image_size` pixels.

    Raises:
      ValueError: no scheme of that name, or two variables of the model get the same key.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"no naming scheme {scheme!r}: there are {', '.join(SCHEMES)}")
    shapes = abstract_variables(model, image_size)
    modules = {path[1:-1]: rank for rank, path in reversed(list(enumerate(shapes)))}
    pairs = []
    for path in sorted(shapes, key=lambda path: modules[path[1:-1]]):  # statistics beside their parameters
        pairs.append(_pair(path, shapes[path], SCHEMES[scheme]))
        if path[0] == "batch_stats" and path[-1] == "var":
            pairs.append(_pair((COUNTS, *path[1:-1], COUNTS), (), SCHEMES[scheme]))
    keys = [pair.key for pair in pairs]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the {scheme} names give two variables of the model the key {twice}")
    return pairs


def abstract_variables(model: nn.Module, image_size: int) -> dict[Path, Shape]:
    """Paths and shapes of the model's variables, in the order in which the model creates them."""
    order: list[Path] = []

    def init(key):
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        order.extend(flatten_dict(variables))  # here, since JAX sorts the dictionaries that leave a trace
        return variables

    shapes = flatten_dict(jax.eval_shape(init, jax.random.key(0)))
    return {path: shapes[path].shape for path in order}


def _pair(path: Path, shape: Shape, rules: tuple[Rule, ...]) -> Pair:
    module, leaf = "/".join(path[1:-1]), path[-1]
    layout = LAYOUTS.get((leaf, len(shape)), Layout(tuple(range(len(shape)))))
    for rule in rules:
        module, matches = re.subn(rule.pattern, rule.replacement, module)
        if matches and rule.kernel_layout and leaf == "kernel":
            layout = rule.kernel_layout
    key = ".".join(filter(None, (module.replace("/", "."), LEAVES.get(leaf, leaf))))
    return Pair(path, key, shape, layout)
