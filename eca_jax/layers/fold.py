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

from eca_jax.kernels import batch_statistics, compute_once, max_pool, scale_shift
from eca_jax.layers.attention import ChannelGate
from eca_jax.layers.conv import Conv
from eca_jax.layers.norm import BatchNorm


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
    folded = gate if fold and isinstance(gate, ChannelGate) else None
    if folded is not None and not train and conv.mean_commutes:
        y, pooled = conv(compute_once(x), with_mean=True)
        a, b, _ = norm.affine(y, train)
        # Rounded as `scale_shift` rounds them: the descriptor is then that of the result, and a TPU keeps one form of
        # each instead of two.
        a, b = a.astype(norm.dtype), b.astype(norm.dtype)
        weights = folded.gate(a.astype(jnp.float32) * pooled + b.astype(jnp.float32))
        # By factors: their products, one for each example, would be two more small programs before the convolution.
        return scale_shift(y.astype(norm.dtype), a, b) * weights[:, None, None, :].astype(norm.dtype)
    if train and folded is gate:  # which may be None
        return _in_training(x, conv, norm, folded, fold, kept)
    y = norm(conv(x), train)
    return dropped(y if gate is None else gate(y, train), kept)


def _in_training(
    x: jax.Array, conv: Conv, norm: BatchNorm, gate: ChannelGate | None, fold: bool, kept: jax.Array | None
) -> jax.Array:
    """The affine map of conv(x) that BatchNorm, gate and `kept` are."""
    unwritten = conv(x, unwritten=True) if fold and _can_be_unwritten(x, conv, norm) else None
    y = conv(x) if unwritten is None else unwritten.y
    statistics = batch_statistics if unwritten is None else unwritten.statistics
    a, b, pooled = norm.affine(y, True, with_mean=gate is not None, statistics=statistics)
    factors = None if kept is None else kept[:, None]
    if len(a) > 1 and (gate is not None or kept is not None):  # one row for each example instead of each group
        a, b = (_by_example(v, len(x)) for v in (a, b))
    if gate is not None:
        weights = gate.gate(a * pooled + b)
        factors = weights if factors is None else weights * factors
    if factors is not None:
        a, b = factors * a, factors * b
    return scale_shift(y.astype(norm.dtype), a, b) if unwritten is None else unwritten.scale_shift(a, b)


def _can_be_unwritten(x: jax.Array, conv: Conv, norm: BatchNorm) -> bool:
    """Whether a TPU gains where it does not write the convolution's result in training, by shapes alone:

    a 1x1 convolution of stride 1 to at least four times as many channels, those of bottlenecks and stage 1's shortcut,
    and groups of no fewer values than input channels. See BENCHMARKS.md, "A convolution's statistics from its input".
    """
    if not conv.mean_commutes or conv.use_bias or conv.dtype != norm.dtype:
        return False
    channels = x.shape[-1]
    return conv.features >= 4 * channels and norm.groups(x)[1] >= channels


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
