"""Folding a channel gate into the BatchNorm and the convolution before it, so that attention costs no extra pass.

BatchNorm is affine per channel, so the descriptor of its output follows from the descriptor of its input,
GAP(a x + b) = a GAP(x) + b, and the gated output is one affine map of the convolution's output:

    s = gate(a GAP(x) + b),    y = (s a) x + (s b).

In training GAP(x) are the per-example means that the batch statistics are made of. At inference, where there are
none, the mean commutes with a 1x1 convolution, so it is taken of the convolution's smaller input, and the gate is
known before the convolution runs. In a training step for a TPU a widening 1x1 convolution's statistics come from its
input as well, so that its result is never written: see `eca_jax.kernels.gram`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from eca_jax.kernels import affine_conv, compiled_for, compute_once, max_pool, moments
from eca_jax.layers.attention import ChannelGate
from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm, scale_shift, split_groups


def conv_norm_gate(
    x: jax.Array, conv: Conv, norm: BatchNorm, gate: nn.Module | None, *, train: bool, fold: bool = True
) -> jax.Array:
    """gate(norm(conv(x))): [N, H, W, C] -> [N, H', W', C'].

    A `ChannelGate` is folded. `fold=False` runs the three layers one after another, the definition that the folded
    form must equal, and so does any other attention: a module `(x, train) -> x`.
    """
    if train and fold and (gate is None or isinstance(gate, ChannelGate)) and statistics_from_input(x, conv, norm):
        return _unwritten(x, conv, norm, gate)
    if gate is None:
        return norm(conv(x), train)
    if not fold or not isinstance(gate, ChannelGate) or not (train or conv.mean_commutes):
        return gate(norm(conv(x), train), train)
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
        a, b = (jnp.repeat(v, y.shape[0] // v.shape[0], axis=0) for v in (a, b))
    weights = gate.gate(a * pooled + b)
    return scale_shift(y.astype(norm.dtype), weights * a, weights * b)


def statistics_from_input(x: jax.Array, conv: Conv, norm: BatchNorm) -> bool:
    """Whether, in training, a convolution of x runs without its result being written. The rule and its figures:

    in a program that `kernels.jit` compiles for a TPU, a 1x1 convolution of stride 1 to four times as many channels or
    more, those of bottlenecks and stage 1's shortcut, and groups of no fewer values than input channels. See
    BENCHMARKS.md, "A convolution's statistics from its input".
    """
    if compiled_for() != "tpu" or conv.is_initializing() or not conv.mean_commutes or conv.use_bias:
        return False
    channels = x.shape[-1]
    return conv.features >= 4 * channels and norm.groups(x)[1] >= channels


def _unwritten(x: jax.Array, conv: Conv, norm: BatchNorm, gate: ChannelGate | None) -> jax.Array:
    """`conv_norm_gate` in training, the statistics from the moments of x: [N, H, W, K] -> [N, H, W, C]."""
    x, kernel = x.astype(conv.dtype), conv.rounded_kernel()[0, 0]
    groups, count = norm.groups(x)
    of_examples, second = moments(x, groups)
    w = kernel.astype(jnp.float32)
    dot = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    of_groups = jnp.mean(split_groups(of_examples, groups), axis=1)
    # Cancelled in K x K, before W: of channels that W cancels nothing is lost.
    covariance = second - of_groups[:, :, None] * of_groups[:, None, :]
    var = jnp.maximum(jnp.sum(w * dot("gkl,lc->gkc", covariance, w), axis=1), 0.0)
    a, b = norm.from_statistics(dot("gk,kc->gc", of_groups, w), var, count)
    if gate is not None:
        if groups > 1:
            a, b = (jnp.repeat(v, len(x) // groups, axis=0) for v in (a, b))
        weights = gate.gate(a * dot("nk,kc->nc", of_examples, w) + b)
        a, b = weights * a, weights * b
    return affine_conv(x, kernel, a, b).astype(norm.dtype)


def norm_relu_pool(x: jax.Array, norm: BatchNorm, train: bool) -> jax.Array:
    """max_pool(relu(norm(x)), window=3, stride=2, padding=1): [N, H, W, C] -> [N, H', W', C].

    Max-pooling commutes with functions that do not fall, so it comes first. Normalisation, ReLU and their gradients
    then touch a quarter of the positions, and in training the large normalised map is never written.
    """
    x, a, b = norm.rising(x.astype(norm.dtype), train)
    return jax.nn.relu(scale_shift(max_pool(x, window=3, stride=2, padding=1), a, b))
