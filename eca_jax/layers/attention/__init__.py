"""Channel attention: layers that rescale a feature map by what they see of it, by name and as modules."""

from eca_jax.layers.attention.augmented import AugmentedConv
from eca_jax.layers.attention.base import ChannelGate, global_average_pool, round_channels
from eca_jax.layers.attention.cbam import CBAM
from eca_jax.layers.attention.coordinate import CoordinateAttention
from eca_jax.layers.attention.covariance import GSoP, RowFilters
from eca_jax.layers.attention.double_attention import DoubleAttention
from eca_jax.layers.attention.eca import (
    ECA,
    ECAM,
    ChannelConv,
    StackedECA,
    UnsharedECA,
    eca_kernel_size,
)
from eca_jax.layers.attention.gather_excite import GatherExcite
from eca_jax.layers.attention.global_context import GlobalContext
from eca_jax.layers.attention.moments import GCT, SRM, SimAM
from eca_jax.layers.attention.registry import (
    Attention,
    AttentionSpec,
    KernelSizes,
    create_attention,
    list_attentions,
    register_attention,
    resolve_attention,
)
from eca_jax.layers.attention.se import SE, DenseGate, DiagonalGate, GroupedGate, PlainGate

__all__ = [
    "CBAM",
    "ECA",
    "ECAM",
    "GCT",
    "SE",
    "SRM",
    "Attention",
    "AttentionSpec",
    "AugmentedConv",
    "ChannelConv",
    "ChannelGate",
    "CoordinateAttention",
    "DenseGate",
    "DiagonalGate",
    "DoubleAttention",
    "GSoP",
    "GatherExcite",
    "GlobalContext",
    "GroupedGate",
    "KernelSizes",
    "PlainGate",
    "RowFilters",
    "SimAM",
    "StackedECA",
    "UnsharedECA",
    "create_attention",
    "eca_kernel_size",
    "global_average_pool",
    "list_attentions",
    "register_attention",
    "resolve_attention",
    "round_channels",
]
