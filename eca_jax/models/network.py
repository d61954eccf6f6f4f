"""What every network here has in common: its options, its attention, its classifier."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eca_jax.layers.attention import Attention, AttentionSpec, KernelSizes, global_average_pool, resolve_attention
from eca_jax.layers.conv import Dense, Initializer, Layer
from eca_jax.layers.norm import BatchNorm
from eca_jax.models.inputs import RGB

# Of the examples of a part in its batch, in the collection "batch".
ROW = "row"
# Ends the name of an rng stream from which nothing is drawn but by row.
BY_ROW = "_by_row"


class Network(nn.Module, kw_only=True):
    """Base of every network. NHWC images in, float32 logits out: `network(images, train=False)`.

    Attributes:
      num_classes: 0 returns the pooled features, float32 [N, C].
      in_chans: channels of the images: 1 are grey, 3 RGB, 4 RGBA; other numbers are for arrays of one's own.
      attention: of every block that has a place for one: a registered name, a module's class or a partial of one; None
        for none. See `eca_jax.layers.attention.registry`.
      attention_options: fields of the attention's module.
      attention_name: of its submodule in a block; None is the attention's own name.
      kernel_sizes: of ECA or another attention that has a kernel size, one for each place (a stage, or in MobileNetV2
        a block), or "adaptive" for the paper's formula on the channels that arrive. None is the network's own rule.
      drop_path: stochastic depth (Huang et al., ECCV 2016): the rate at which the last block's branch is left out of an
        example in training, growing from 0 in the first block; rng stream "drop_path". A block without a residual keeps
        its branch.
      dropout: rate of the pooled features before the classifier in training; rng stream "dropout".
      features_only: return the outputs at strides 4, 8, 16 and 32 instead of logits.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    num_classes: int = 1000
    in_chans: int = RGB
    attention: Attention = None
    attention_options: Mapping[str, Any] | None = None
    attention_name: str | None = None
    kernel_sizes: KernelSizes = None
    drop_path: float = 0.0
    dropout: float = 0.0
    features_only: bool = False
    dtype: Any = jnp.float32

    @property
    def attention_spec(self) -> AttentionSpec | None:
        """The attention with its options; None for none. Raises as `resolve_attention` does."""
        return resolve_attention(self.attention, self.attention_options, self.attention_name)

    def _images(self, x: jax.Array) -> jax.Array:
        """The input in the computation's dtype. ValueError for an image without batch, in PyTorch's order, or of other
        channels."""
        if x.ndim != 4 or (x.shape[1] in (1, 3, 4) and x.shape[3] > 4 and x.shape[3] != self.in_chans):
            raise ValueError(f"a network takes images [N, H, W, C], channels last, not {list(x.shape)}")
        if x.shape[3] != self.in_chans:
            raise ValueError(f"the network takes images of in_chans={self.in_chans} channels, not {list(x.shape)}")
        return x.astype(self.dtype)

    def _attentions(
        self, rule: Sequence[int | None], *, each: str = "a stage", places: Sequence[str] = ("branch",), **offers: Any
    ) -> list[Layer | None]:
        """What makes the attention in each stage, or (MobileNetV2) block.

        Args:
          rule: the network's own kernel size for each.
          each: how an error calls one of them.
          places: those that the blocks have, of `AttentionSpec.place`.
          **offers: see `AttentionSpec.layers`.

        Raises:
          ValueError: as `AttentionSpec.layers` does, or the attention has no place here.
        """
        spec = self.attention_spec
        if spec is None:
            if self.kernel_sizes is not None:
                raise ValueError("kernel_sizes belongs to networks with ECA, and this one has no attention")
            return [None] * len(rule)
        if spec.place not in places:
            where = {"conv": "in place of a bottleneck's 3x3 convolution", "after": "after a ResNet's block"}
            raise ValueError(f"{spec.build.__name__} stands {where[spec.place]}, and this network has no such place")
        offered = [{"kernel_size": size, "stage": index} for index, size in enumerate(rule)]
        return [*spec.layers(offered, self.kernel_sizes, each=each, dtype=self.dtype, **offers)]

    def _kept(self, x: jax.Array, blocks: int, train: bool) -> list[jax.Array | None]:
        """For each block what its branch is multiplied by, float32 [N]: 0, or 1 over the share kept; or None.

        The draws are those of the example's row in the batch, which the collection "batch" has where x is a part of it.
        """
        if not train or not self.drop_path or self.is_initializing():
            return [None] * blocks
        if not 0 < self.drop_path < 1:
            raise ValueError(f"drop_path must be from 0 to below 1, not {self.drop_path}")
        draws = self._draws("drop_path", x, blocks)
        keep = 1.0 - self.drop_path * np.arange(blocks, dtype=np.float32) / max(blocks - 1, 1)
        return [None if share == 1 else (draws[:, i] < share) / share for i, share in enumerate(keep)]

    def _undropped(self, x: jax.Array, train: bool) -> jax.Array | None:
        """What the means of x [N, H, W, C] are multiplied by before the classifier, float32 [N, C]; see `_kept`."""
        if not train or not self.dropout or self.is_initializing():
            return None
        if not 0 < self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}")
        share = 1.0 - self.dropout
        return (self._draws("dropout", x, x.shape[-1]) < share) / share

    def _draws(self, stream: str, x: jax.Array, count: int) -> jax.Array:
        """Uniform [N, count] from an rng stream, by each example's row in the batch, of which x may be a part.

        The stream is the one for draws by row, where there is one: the other may have a key of its own for each part.
        """
        by_row = stream + BY_ROW
        key = self.make_rng(by_row if self.has_rng(by_row) else stream)
        rows = self.get_variable("batch", ROW) if self.has_variable("batch", ROW) else jnp.arange(len(x))
        return jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), (count,)))(rows)


class BatchNormNetwork(Network, kw_only=True):
    """Base of the networks with BatchNorm.

    Attributes:
      bn_group_size: examples that share BatchNorm statistics; None is the whole batch.
      bn_epsilon: added to the variance.
    """

    bn_group_size: int | None = None
    bn_epsilon: float = 1e-5

    def _norm(self) -> Callable[..., BatchNorm]:
        """What makes BatchNorm."""
        return partial(BatchNorm, epsilon=self.bn_epsilon, group_size=self.bn_group_size, dtype=self.dtype)

    def _attentions(self, rule: Sequence[int | None], **options: Any) -> list[Layer | None]:
        return super()._attentions(rule, bn_group_size=self.bn_group_size, **options)


class ClassifierHead(nn.Module):
    """Features [N, H, W, C] -> float32 logits [N, num_classes], or the means [N, C] where there are no classes.

    Called with `undropped` [N, C], the means are multiplied by it before the classifier (dropout).
    """

    num_classes: int
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, undropped: jax.Array | None = None) -> jax.Array:
        pooled = global_average_pool(x)
        if not self.num_classes:
            return pooled
        if undropped is not None:
            pooled = pooled * undropped
        zeros = nn.initializers.zeros
        return Dense(self.num_classes, kernel_init=self.kernel_init, bias_init=zeros, name="fc")(pooled)
