"""Attentions by name, and what a network asks of one: a layer for each of its places.

An attention is a `flax.linen` module that is called as `module(x, train) -> x` on feature maps [N, H, W, C]. A network
offers it what it knows, by the names of the module's own fields: `dtype` (of the computation), `bn_group_size`
(examples that share statistics, for BatchNorm inside), `stage` (from 0) and `kernel_size` (where the field's default is
None, "choose one"). What the attention's options say comes before what the network offers.

Two class attributes say more where a module has them: `name_in_block`, of its submodule ("attention" without), and
`place`: "branch", after a block's last BatchNorm and before the sum (without), "after", on the block's output, or
"conv", instead of a bottleneck's 3x3 convolution, made with that one's `features` and `stride`.
"""

import dataclasses
import difflib
import fnmatch
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flax import linen as nn

from eca_jax.layers.attention.augmented import AugmentedConv
from eca_jax.layers.attention.cbam import CBAM
from eca_jax.layers.attention.coordinate import CoordinateAttention
from eca_jax.layers.attention.covariance import GSoP
from eca_jax.layers.attention.double_attention import DoubleAttention
from eca_jax.layers.attention.eca import ECA, ECAM, StackedECA, UnsharedECA
from eca_jax.layers.attention.gather_excite import GatherExcite
from eca_jax.layers.attention.global_context import GlobalContext
from eca_jax.layers.attention.moments import GCT, SRM, SimAM
from eca_jax.layers.attention.se import SE, DenseGate, DiagonalGate, GroupedGate, PlainGate
from eca_jax.layers.conv import Layer

# A registered name, a module's class, or a `functools.partial` of a class.
Attention = str | type[nn.Module] | functools.partial[nn.Module] | None
# One for each place, the paper's formula everywhere, or the network's own rule.
KernelSizes = Sequence[int] | Literal["adaptive"] | None

_ATTENTIONS: dict[str, Layer] = {
    "a2": DoubleAttention,
    "aa": AugmentedConv,
    "cbam": CBAM,
    "ceca": functools.partial(ECA, circular=True),
    "coord": CoordinateAttention,
    "eca": ECA,
    "eca2": functools.partial(StackedECA, depth=2),
    "eca3": functools.partial(StackedECA, depth=3),
    "eca_ns": UnsharedECA,
    "ecam": ECAM,
    "gc": GlobalContext,
    "gct": GCT,
    "ge": GatherExcite,
    "gsop": GSoP,
    "se": SE,
    "se_gc1": functools.partial(GroupedGate, groups=16),
    "se_gc2": functools.partial(GroupedGate, group_size=16),
    "se_gc3": functools.partial(GroupedGate, group_size=8),
    "se_var1": PlainGate,
    "se_var2": DiagonalGate,
    "se_var3": DenseGate,
    "simam": SimAM,
    "srm": SRM,
}


def register_attention(name: str, build: type[nn.Module] | functools.partial[nn.Module]) -> None:
    """Adds an attention under `name`, for `create_model(..., attention=name)` and `create_attention`.

    Args:
      build: a module's class, or a partial of one, called as `module(x, train)`; see this module for what a network
        sets. A `ChannelGate` is folded into the BatchNorm before it; any other runs as a layer. Its parameters lie
        under `name_in_block`, a class attribute, or "attention" without one.

    Raises:
      ValueError: the name is taken, or `build` is not such a class.
    """
    if name in _ATTENTIONS:
        raise ValueError(f"attention {name!r} is registered twice")
    resolve_attention(build)
    _ATTENTIONS[name] = build


def list_attentions(pattern: str = "*") -> list[str]:
    """Names of the attentions that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_ATTENTIONS, pattern))


def create_attention(attention: str, /, **options: Any) -> nn.Module:
    """The layer of that name, for a network of one's own: `create_attention("se", reduction=8)(x)`.

    Args:
      attention: one of `list_attentions()`.
      **options: fields of the module, and flax's `name`.

    Raises:
      ValueError: unknown name or option; suggests the nearest.
    """
    name = options.pop("name", None)
    spec = resolve_attention(attention, options)
    assert spec is not None, "a name is not None"
    return spec.build(**spec.options, name=name)


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """An attention before it has a place in a network; `resolve_attention` makes one.

    Attributes:
      build: the module's class.
      options: values of its fields.
      name: of the submodule in a block.
    """

    build: type[nn.Module]
    options: Mapping[str, Any]
    name: str

    @property
    def kernel_path(self) -> tuple[str, ...]:
        """Where in a block the parameter lies whose first axis `kernel_sizes` sets; empty where that sets none."""
        path = () if self.options.get("kernel_size") else getattr(self.build, "kernel_path", ())
        return (self.name, *path) if path else ()

    @property
    def place(self) -> str:
        """Where it stands: "branch", "after" or "conv"."""
        return getattr(self.build, "place", "branch")

    def layers(
        self, places: Sequence[Mapping[str, Any]], kernel_sizes: KernelSizes, *, each: str, **offers: Any
    ) -> list[functools.partial[nn.Module]]:
        """What makes the layer at each place of a network.

        Args:
          places: what each offers; `kernel_size` is the network's own rule, None where it has none.
          kernel_sizes: as the network was asked for; see `KernelSizes`.
          each: how an error calls one place, "a stage".
          **offers: what every place offers: values of fields, taken by a module that has the field where the options
            leave it open.

        Raises:
          ValueError: `kernel_sizes` is given to an attention without, or twice, or is not one for each place.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self.build)}
        chooses = defaults.get("kernel_size", 0) in (None, dataclasses.MISSING)
        own = {
            key: value
            for key, value in self.options.items()
            if not (chooses and key == "kernel_size" and value is None)
        }
        layers = []
        for place, size in zip(places, self._kernel_sizes(len(places), kernel_sizes, each), strict=True):
            taken = {key: value for key, value in {**offers, **place}.items() if key in defaults and key not in own}
            if not (chooses and taken.get("kernel_size")):
                taken.pop("kernel_size", None)
            layers.append(functools.partial(self.build, **taken | own | size, name=self.name))
        return layers

    def _kernel_sizes(self, count: int, kernel_sizes: KernelSizes, each: str) -> list[dict[str, int | None]]:
        """The `kernel_size` that was asked for at each place, as a keyword; none where the network chooses."""
        if kernel_sizes is None:
            return [{}] * count
        if "kernel_size" not in {field.name for field in dataclasses.fields(self.build)}:
            raise ValueError(f"kernel_sizes belongs to networks with ECA, and {self.build.__name__} has no kernel_size")
        if self.options.get("kernel_size"):
            raise ValueError(
                f"kernel_sizes is given beside the attention's own kernel_size={self.options['kernel_size']}"
            )
        if kernel_sizes == "adaptive":
            return [{"kernel_size": None}] * count
        if len(kernel_sizes) != count:
            raise ValueError(f"kernel_sizes takes one size {each}, got {tuple(kernel_sizes)}")
        return [{"kernel_size": size} for size in kernel_sizes]


def resolve_attention(
    attention: Attention, options: Mapping[str, Any] | None = None, name: str | None = None
) -> AttentionSpec | None:
    """The attention that a network was asked for; None for none.

    Args:
      attention: see `Attention`.
      options: values of the module's fields, beside those of a partial.
      name: of the submodule in a block, unless a partial says it; None is the module's own.

    Raises:
      ValueError: unknown name or option (suggests the nearest), or nothing that makes a module.
    """
    if attention is None:
        if options:
            raise ValueError(f"attention_options {dict(options)} belong to no attention: `attention` is None")
        return None
    build = _named(attention) if isinstance(attention, str) else attention
    partial = build if isinstance(build, functools.partial) else functools.partial(build)
    if not (isinstance(partial.func, type) and issubclass(partial.func, nn.Module)):
        raise ValueError(
            "attention takes a name, a class of flax.linen.Module or a functools.partial of one, "
            f"not an instance of {type(attention).__name__}"
        )
    fields = [
        field for field in dataclasses.fields(partial.func) if field.init and field.name not in ("parent", "name")
    ]
    positional = [field.name for field in fields if not field.kw_only]
    given = {**dict(zip(positional, partial.args, strict=False)), **partial.keywords, **(options or {})}
    place = str(given.pop("name", None) or name or getattr(partial.func, "name_in_block", "attention"))
    known = {field.name for field in fields} - {"fast"}
    label = repr(attention) if isinstance(attention, str) else partial.func.__name__
    for key in given:
        if key not in known:
            raise ValueError(f"attention {label} has no option {key!r}: {_hint(key, known)}")
    return AttentionSpec(partial.func, given, place)


def _named(name: str) -> Layer:
    if name not in _ATTENTIONS:
        raise ValueError(f"unknown attention {name!r}: {_hint(name, list_attentions())}")
    return _ATTENTIONS[name]


def _hint(word: str, known: Sequence[str] | set[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
