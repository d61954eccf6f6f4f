"""What the models are built from: no I/O, no configuration."""

from eca_jax.layers.attention import (
    ECA,
    ECAM,
    SE,
    ChannelGate,
    create_attention,
    eca_kernel_size,
    global_average_pool,
    list_attentions,
    register_attention,
)
from eca_jax.layers.conv import Conv, Dense
from eca_jax.layers.fold import conv_norm_gate
from eca_jax.layers.norm import BatchNorm

__all__ = [
    "ECA",
    "ECAM",
    "SE",
    "BatchNorm",
    "ChannelGate",
    "Conv",
    "Dense",
    "conv_norm_gate",
    "create_attention",
    "eca_kernel_size",
    "global_average_pool",
    "list_attentions",
    "register_attention",
]
