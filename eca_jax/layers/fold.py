"""Folding a channel gate into the BatchNorm and the convolution before it, so that attention costs no extra pass.

BatchNorm is affine per channel, so the descriptor of its output follows from the descriptor of its input,
GAP(a x + b) = a GAP(x) + b, and the gated output is one affine map of the convolution's output:

    s = gate(a GAP(x) + b),    y = (s a) x + (s b).

In training GAP(x) are the per-example means that the batch statistics are made of. At inference, where there are
none, the mean commutes with a 1x1 convolution, so it is taken of the convolution's smaller input, and the gate is
known before the convolution runs.
"""

import jax

from eca_jax.layers.attention import ChannelGate, global_average_pool
from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm, scale_shift


def conv_norm_gate(
    x: jax.Array, conv: Conv, norm: BatchNorm, gate: ChannelGate | None, *, train: bool, fold: bool = True
) -> jax.Array:
    """gate(norm(conv(x))): [N, H, W, C] -> [N, H', W', C'].

    `fold=False` runs the three layers one after another, the definition that the folded form must equal.
    """
    if gate is None:
        return norm(conv(x), train)
    if not fold:
        return gate(norm(conv(x), train))
    if not train and conv.mean_commutes:
        y, pooled = conv(x, with_mean=True)
        a, b, _ = norm.affine(y, train)
    else:
        y = conv(x)
        a, b, pooled = norm.affine(y, train)
        if pooled is None:
            pooled = global_average_pool(y)
    weights = gate.gate(a * pooled + b)
    return scale_shift(y.astype(norm.dtype), weights * a, weights * b)
