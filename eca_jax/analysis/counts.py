"""Parameters and multiply-adds of a model, in SI units and in those of the paper's tables."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.extend import core

from eca_jax import kernels
from eca_jax.layers import attention, conv, norm
from eca_jax.models import create_model, mobilenet_v2, preprocessing, resnet
from eca_jax.models.inputs import channels_of
from eca_jax.models.registry import entry


@dataclasses.dataclass(frozen=True)
class Counts:
    """What `count` finds.

    Attributes:
      model, image_size: what was counted; pixels.
      parameters: trainable scalars.
      attention_parameters: those of the attention.
      multiply_adds: of convolutions and matrix products for one image.
      paper_operations: for one image as the paper's counter took them (see `PaperCounter`); None for models that
        the paper does not have.
    """

    model: str
    image_size: int
    parameters: int
    attention_parameters: int
    multiply_adds: int
    paper_operations: int | None

    def report(self) -> dict[str, Any]:
        """The counts and what they are in both units, as plain data."""
        paper = self.paper_operations
        return {
            **dataclasses.asdict(self),
            "parameters_millions": self.parameters / 10**6,
            "parameters_2_20": self.parameters / 2**20,
            "multiply_adds_giga": self.multiply_adds / 10**9,
            "multiply_adds_2_30": self.multiply_adds / 2**30,
            "paper_operations_2_20": paper and paper / 2**20,
            "paper_operations_2_30": paper and paper / 2**30,
        }


def count(name: str, *, image_size: int | None = None, **overrides: Any) -> Counts:
    """Counts one model at `image_size` pixels (its own default). Nothing is computed, only traced.

    Raises:
      ValueError: unknown model or override.
    """
    size = image_size or preprocessing(name).image_size
    model = definition(name, **overrides)
    counter = PaperCounter(count_activations=getattr(model, "block", None) is not resnet.BasicBlock)
    variables, operations = trace(model, size, counter)
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    placed = getattr(model, "attention_spec", None)
    attentions = [leaf.size for path, leaf in leaves if placed and placed.name in {key.key for key in path}]
    has_paper_count = entry(name).weights_format != "timm"
    return Counts(
        model=name,
        image_size=size,
        parameters=sum(leaf.size for _, leaf in leaves),
        attention_parameters=sum(attentions),
        multiply_adds=operations,
        paper_operations=counter.operations if has_paper_count else None,
    )


def definition(name: str, **overrides: Any) -> nn.Module:
    """The model with its attention as layers of their own: the folded form moves operations about."""
    model = create_model(name, **overrides)
    return model.clone(fold=False) if hasattr(model, "fold") else model


@dataclasses.dataclass(frozen=True)
class Part:
    """A submodule of a model, as `parts` finds it.

    Attributes:
      path, kind: "layer1_0/conv1" and the name of its class.
      output: the shape of what it returns for one image.
      parameters: trainable scalars in it, submodules included.
    """

    path: str
    kind: str
    output: tuple[int, ...]
    parameters: int


def parts(name: str, *, depth: int = 1, image_size: int | None = None, **overrides: Any) -> list[Part]:
    """The submodules of a model in the order of their calls, down to a depth: 1 is blocks, 2 their layers too.

    Raises:
      ValueError: unknown model or override.
    """
    model, calls = definition(name, **overrides), _Calls(depth)
    variables, _ = trace(model, image_size or preprocessing(name).image_size, calls)
    sizes = {path: leaf.size for path, leaf in flatten_dict(variables["params"]).items()}
    return [
        Part("/".join(path), kind, output, sum(size for leaf, size in sizes.items() if leaf[: len(path)] == path))
        for path, (kind, output) in calls.found.items()
    ]


class _Calls:
    """A `Counter` of nothing: notes which modules are called and the shapes of what they return."""

    operations = 0

    def __init__(self, depth: int):
        self._depth = depth
        self.found: dict[tuple[str, ...], tuple[str, tuple[int, ...]]] = {}

    def intercept(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path, kind = context.module.path, type(context.module).__name__
        if not 0 < len(path) <= self._depth:
            return call(*args, **kwargs)
        self.found.setdefault(path, (kind, ()))  # before those inside it
        output = call(*args, **kwargs)
        if context.method_name == "__call__" or not self.found[path][1]:  # a norm may have another method called
            first = output[0] if isinstance(output, tuple) else output
            self.found[path] = (kind, tuple(getattr(first, "shape", ())))
        return output


class Counter(Protocol):
    """Adds up `operations` of the modules that are called."""

    operations: int

    def intercept(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any: ...


def trace(model: nn.Module, image_size: int, *counters: Counter) -> tuple[Any, int]:
    """Abstract variables of the model, and its multiply-adds for one image of that size, products included.

    The counters see every call. Nothing is computed.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels_of(model)), jnp.float32)
    with contextlib.ExitStack() as stack:
        for counter in counters:
            stack.enter_context(nn.intercept_methods(counter.intercept))
        init = jax.make_jaxpr(lambda x: model.init(jax.random.key(0), x), return_shape=True)
        jaxpr, variables = init(image)
    return variables, multiply_adds(jaxpr.jaxpr)


def multiply_adds(jaxpr: core.Jaxpr) -> int:
    """Multiply-adds of every convolution and matrix product in a jaxpr, nested ones included."""
    return sum(found.multiply_adds for found in kernels.convolutions(jaxpr)) + _of_lax(jaxpr)


def _of_lax(jaxpr: core.Jaxpr) -> int:
    """Those of `lax.conv_general_dilated` and `lax.dot_general`."""
    total = 0
    for equation in jaxpr.eqns:
        inputs: Sequence[Any] = equation.invars
        outs: Sequence[Any] = equation.outvars
        if equation.primitive.name == "conv_general_dilated":
            kernel = inputs[1].aval.shape
            outputs = equation.params["dimension_numbers"].rhs_spec[0]
            total += outs[0].aval.size * math.prod(kernel) // kernel[outputs]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = inputs[0].aval.shape
            total += outs[0].aval.size * math.prod(shape[axis] for axis in contracted)
        total += sum(_of_lax(inner) for inner in core.jaxprs_in_params(equation.params))
    return total


class PaperCounter:
    """Operations as thop took them in 2019, which gives every row of the paper's ImageNet table for these models.

    A convolution counts its multiply-adds, BatchNorm 4 an element (subtract, divide, scale, shift), an average
    pooling module its window and one division an output, a linear layer 2 in - 1 an output. Sigmoids and sums
    count nothing, nor does MobileNetV2's final pooling, which is no module there.

    Activations count 1 an element and max-pooling 3 an output (the counter read a 3x3 window as "3") in the rows of
    ResNet-50, 101, 152 and MobileNetV2: thop 0.0.22. It overwrote the count of a module that is called twice, so
    of a ResNet block's shared ReLU and of CBAM's MLP only the last call counts. The rows of ResNet-18 and 34, which
    the paper got later, come out only where both count nothing, as in thop since 0.0.30.

    Poolings that are no modules, CBAM's as its authors published it, count nothing; `pool_modules` counts its mean.
    """

    def __init__(self, count_activations: bool, *, pool_modules: bool = False) -> None:
        self.count_activations = count_activations
        self.pool_modules = pool_modules
        self.operations = 0
        self._last_calls: dict[tuple[str, ...], int] = {}  # of modules that are called twice
        self._final_shape: tuple[int, ...] = ()

    def intercept(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        """For `nn.intercept_methods`."""
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name in ("__call__", "rising"):  # the stem calls `BatchNorm.rising`
            result = out[0] if context.method_name == "rising" else out
            multiplications = self._multiplications(module, args[0], result)
            self.operations += multiplications - self._overwritten(module, multiplications)
            if self.count_activations:
                self.operations += self._activations(module, result)
        return out

    def _overwritten(self, module: nn.Module, multiplications: int) -> int:
        """What the call before counted, of CBAM's dense layers, which see the mean and then the maximum."""
        if not isinstance(module.parent, attention.CBAM) or not isinstance(module, conv.Dense):
            return 0
        before = self._last_calls.get(module.path, 0)
        self._last_calls[module.path] = multiplications
        return before

    def _multiplications(self, module: nn.Module, x: jax.Array, out: Any) -> int:
        if isinstance(module, conv.Conv):
            kernel = module.variables["params"]["kernel"]
            return out.size * kernel.size // kernel.shape[-1]
        if isinstance(module, conv.Dense):
            return (2 * x.shape[-1] - 1) * out.size
        if isinstance(module, norm.BatchNorm):
            return 4 * out.size
        if isinstance(module, attention.ChannelConv):
            return out.size * module.kernel_size
        if isinstance(module, attention.ChannelGate) or (self.pool_modules and isinstance(module, attention.CBAM)):
            return average_pooling(x.shape)
        if isinstance(module, (resnet.BasicBlock, resnet.Bottleneck)):
            self._final_shape = out.shape
        return average_pooling(self._final_shape) if isinstance(module, resnet.ResNet) else 0

    def _activations(self, module: nn.Module, out: Any) -> int:
        if isinstance(module, resnet.Bottleneck):
            return out.size
        if isinstance(module, norm.BatchNorm):
            if isinstance(module.parent, resnet.ResNet):  # the stem, whose max-pooling halves both sides
                return out.size + (0 if module.parent.small_images else 3 * out.size // 4)
            if isinstance(module.parent, mobilenet_v2.MobileNetV2) or module.name in ("expand_bn", "depthwise_bn"):
                return out.size
        if isinstance(module, conv.Dense) and isinstance(module.parent, attention.SE):
            return out.size if module.name == "fc1" else 0
        return 0


class ModuleCounter:
    """Multiply-adds of convolutions and linear layers, without those of products that are no module's."""

    def __init__(self) -> None:
        self.operations = 0

    def intercept(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        """For `nn.intercept_methods`."""
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, conv.Conv | conv.Dense | attention.RowFilters):
            kernel = module.variables["params"]["kernel"]
            self.operations += out.size * kernel.size // kernel.shape[-1]
        return out


def average_pooling(shape: tuple[int, ...]) -> int:
    """Operations of pooling [1, H, W, C] to one value a channel: the window's sum and one division."""
    _, height, width, channels = shape
    return (height * width + 1) * channels
