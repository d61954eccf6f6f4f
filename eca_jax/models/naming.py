"""How families name their parts in PyTorch: plain data, which `eca_jax.weights.torch` applies."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from eca_jax.layers.attention import CBAM, AttentionSpec, GlobalContext


class Rule(NamedTuple):
    """`re.sub(pattern, replacement, path)` on the path of a module, "layer1_0/downsample_conv".

    Attributes:
      pointwise: the dense layers that match are 1x1 convolutions in PyTorch.
      swapped: the input channels of the convolutions that match come in the other order there.
    """

    pattern: str
    replacement: str
    pointwise: bool = False
    swapped: bool = False


Rules = tuple[Rule, ...]


@dataclasses.dataclass(frozen=True)
class Naming:
    """What the networks of a family are called in PyTorch.

    Attributes:
      formats: for each set of names that the family has in PyTorch ("ecanet", the release's; "torchvision"; "timm"),
        what turns the path of a Flax module into the name of the PyTorch module: rules that are applied one after
        another, and what is left of slashes becomes dots. Submodules are named after their PyTorch counterparts, so
        that little is left to do.
      classifier: the path of the classifier.
      place: pattern of the first part of a path, up to what has a kernel size of its own in `kernel_sizes`.
      stages: PyTorch's names of the modules whose outputs `features_only` returns; empty where there is none.
      blocks: pattern of a tensor's name in Flax or PyTorch, with the numbers of its stage and of its block, where
        `stage_sizes` says how many there are; "" where nothing does.
      stem: the path of the convolution that `small_images` makes one of 3x3; "" where that does not show in it.
      width: the `width_mult` that the output channels of convolutions show, by their paths, or None; None where the
        family has no such option.
    """

    formats: Mapping[str, Rules]
    classifier: str
    place: str
    stages: tuple[str, ...]
    blocks: str = ""
    stem: str = ""
    width: Callable[[Mapping[str, int]], float | None] | None = None

    def rules(self, format: str) -> Rules:
        """Those of a format. Raises ValueError where the family has no names in it."""
        if format not in self.formats:
            raise ValueError(f"no names of format {format!r}: there are {', '.join(self.formats)}")
        return self.formats[format]


# ResNets, and networks that are built like them, have stages of blocks.
RESNET = (
    Rule(r"^layer(\d+)_(\d+)/", r"layer\1/\2/"),
    Rule(r"/downsample_conv$", r"/downsample/0"),
    Rule(r"/downsample_bn$", r"/downsample/1"),
)
# Squeeze-and-Excitation as the release's ancestor (moskomule/senet.pytorch) names it: one Sequential.
SE_SEQUENTIAL = (
    Rule(r"(^|/)fc1$", r"\1fc/0"),
    Rule(r"(^|/)fc2$", r"\1fc/2"),
)
# CBAM as its authors name it (Jongchan/attention-module).
CBAM_OFFICIAL = (
    Rule(r"/cbam/fc1$", r"/cbam/ChannelGate/mlp/1"),
    Rule(r"/cbam/fc2$", r"/cbam/ChannelGate/mlp/3"),
    Rule(r"/cbam/(conv|bn)$", r"/cbam/SpatialGate/spatial/\1"),
)
# timm's own families have timm's names, where a number is a place in a Sequential: stages_0_blocks_1/conv_mid_0.
TIMM = (
    Rule(r"^(stages_\d+_\d+)/downsample_conv$", r"\1/downsample/conv"),
    *RESNET,
    Rule(r"_(\d+)(?=[_/]|$)", r"/\1"),
    Rule(r"(/\d+)_", r"\1/"),
    Rule(r"/se/fc([12])$", r"/se/fc\1", pointwise=True),
)

# Of timm's own families, whose stages are a Sequential.
TIMM_STAGES = Naming(
    {"timm": TIMM},
    classifier="head/fc",
    place=r"stages_\d+",
    stages=("stages.0", "stages.1", "stages.2", "stages.3"),
    blocks=r"stages[._](\d+)[._](\d+)[./]",
)


def attention_rules(spec: AttentionSpec | None, format: str) -> Rules:
    """What comes before a family's rules of a format: the parts of an attention whose names depend on which it is.

    In timm's networks every attention is called the same ("se"), and its parts are timm's.
    """
    if spec is None or format != "timm":
        return ()
    place = rf"/{spec.name}/"
    if issubclass(spec.build, CBAM):
        return (
            Rule(place + r"fc([12])$", place + r"channel/fc\1", pointwise=True),
            Rule(place + r"conv$", place + r"spatial/conv/conv", swapped=True),  # the mean comes before the maximum
            Rule(place + r"bn$", place + r"spatial/conv/bn"),
        )
    if issubclass(spec.build, GlobalContext):
        fuse = spec.options.get("fuse", "add")
        return (
            Rule(place + r"mask$", place + r"conv_attn"),
            Rule(place + r"(fc[12]|norm)$", rf"{place}mlp_{fuse}/\1", pointwise=True),
        )
    return ()
