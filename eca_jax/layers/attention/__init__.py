"""Channel attention: layers that rescale a feature map by what they see of it, by name and as modules."""

from eca_jax.layers.attention.base import ChannelGate, global_average_pool, round_channels
from eca_jax.layers.attention.eca import ECA, ECAM, ChannelConv, eca_kernel_size
from eca_jax.layers.attention.registry import (
    Attention,
    AttentionSpec,
    KernelSizes,
    create_attention,
    list_attentions,
    register_attention,
    resolve_attention,
)
from eca_jax.layers.attention.se import SE

__all__ = [
    "ECA",
    "ECAM",
    "SE",
    "Attention",
    "AttentionSpec",
    "ChannelConv",
    "ChannelGate",
    "KernelSizes",
    "create_attention",
    "eca_kernel_size",
    "global_average_pool",
    "list_attentions",
    "register_attention",
    "resolve_attention",
    "round_channels",
]
