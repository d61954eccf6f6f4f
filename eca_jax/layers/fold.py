"""Folding a channel gate into the BatchNorm and the convolution before it, so that attention costs no extra pass.

BatchNorm is affine per channel, so the descriptor of its output follows from the descriptor of its input,
GAP(a x + b) = a GAP(x) + b, and the gated output is one affine map of the convolution's output:

    s = gate(a GAP(x) + b),    y = (s a) x + (s b).

In training GAP(x) are the per-example means that the batch statistics are made of. At inference, where there are
none, the mean commutes with a 1x1 convolution, so it is taken of the convolution's smaller input, and the gate is
known before the convolution runs.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import compute_once, max_pool
from eca_jax.layers.attention import ChannelGate
from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm, scale_shift


def conv_norm_gate(
    x: jax.Array,
    conv: Conv,
    norm: BatchNorm,
    gate: nn.Module | None,
    *,
    train: bool,
    fold: bool = True,
    kept: jax.Array | None = None,
) -> jax.Array:
    """gate(norm(conv(x))): [N, H, W, C] -> [N, H', W', C'], times `kept` [N] where that is given, which costs nothing.

    A `ChannelGate` is folded. `fold=False` runs the three layers one after another, the definition that the folded
    form must equal, and so does any other attention: a module `(x, train) -> x`.
    """
    if gate is None:
        if kept is None:
            return norm(conv(x), train)
        y = conv(x)
        a, b, _ = norm.affine(y, train)
        a, b = _by_example(a, len(x)), _by_example(b, len(x))
        return scale_shift(y.astype(norm.dtype), kept[:, None] * a, kept[:, None] * b)
    if not fold or not isinstance(gate, ChannelGate) or not (train or conv.mean_commutes):
        return dropped(gate(norm(conv(x), train), train), kept)
    if not train:
        y, pooled = conv(compute_once(x), with_mean=True)
        a, b, _ = norm.affine(y, train)
        # Rounded as `scale_shift` rounds them: the descriptor is then that of the result, and a TPU keeps one form of
        # each instead of two.
        a, b = a.astype(norm.dtype), b.astype(norm.dtype)
        weights = gate.gate(a.astype(jnp.float32) * pooled + b.astype(jnp.float32))
        # By factors: their products, one for each example, would be two more small programs before the convolution.
        return scale_shift(y.astype(norm.dtype), a, b) * weights[:, None, None, :].astype(norm.dtype)
    y = conv(x)
    a, b, pooled = norm.affine(y, train, with_mean=True)
    if a.shape[0] > 1:  # one row for each example instead of each group
        a, b = (_by_example(v, y.shape[0]) for v in (a, b))
    weights = gate.gate(a * pooled + b)
    if kept is not None:
        weights = weights * kept[:, None]
    return scale_shift(y.astype(norm.dtype), weights * a, weights * b)


def dropped(y: jax.Array, kept: jax.Array | None) -> jax.Array:
    """A branch y [N, H, W, C] times `kept` [N], where that is given: 0 leaves it out of an example."""
    return y if kept is None else y * kept[:, None, None, None].astype(y.dtype)


def _by_example(values: jax.Array, examples: int) -> jax.Array:
    """Rows for groups of consecutive examples as rows for each."""
    return jnp.repeat(values, examples // values.shape[0], axis=0)


def norm_relu_pool(x: jax.Array, norm: BatchNorm, train: bool) -> jax.Array:
    """max_pool(relu(norm(x)), window=3, stride=2, padding=1): [N, H, W, C] -> [N, H', W', C].

    Max-pooling commutes with functions that do not fall, so it comes first. Normalisation, ReLU and their gradients
    then touch a quarter of the positions, and in training the large normalised map is never written.
    """
    x, a, b = norm.rising(x.astype(norm.dtype), train)
    return jax.nn.relu(scale_shift(max_pool(x, window=3, stride=2, padding=1), a, b))
