"""ResNets as one writes them from stock `flax.linen` layers: the yardstick of `bench tpu`.

Every layer is flax's own: `nn.Conv`, `nn.BatchNorm` (whole-batch statistics), `nn.max_pool`. The optional attention is
the usual form of ECA: average the normalised maps, convolve over the channels, scale, as a layer of its own after bn3.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class StockResNet(nn.Module):
    """torchvision's ResNet of `depth` layers: images [N,H,W,3] -> float32 logits [N,num_classes].

    `kernel_sizes` gives the stages' ECA kernels; None leaves the attention out.
    """

    depth: int = 50
    num_classes: int = 1000
    kernel_sizes: Sequence[int] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, epsilon=1e-5, dtype=self.dtype)
        bottleneck = self.depth >= 50
        x = conv(64, (7, 7), (2, 2), padding=3)(x)
        x = nn.max_pool(nn.relu(norm()(x)), (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(_STAGES[self.depth]):
            planes = 64 * 2**stage
            features = planes * 4 if bottleneck else planes
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                y = x
                if bottleneck:
                    y = nn.relu(norm()(conv(planes, (1, 1))(y)))
                    y = nn.relu(norm()(conv(planes, (3, 3), (stride, stride), padding=1)(y)))
                    y = norm()(conv(features, (1, 1))(y))
                else:
                    y = nn.relu(norm()(conv(planes, (3, 3), (stride, stride), padding=1)(y)))
                    y = norm()(conv(planes, (3, 3), padding=1)(y))
                if self.kernel_sizes is not None:
                    pooled = jnp.mean(y, (1, 2))[..., None]
                    gate = nn.Conv(1, (self.kernel_sizes[stage],), use_bias=False, dtype=self.dtype)(pooled)
                    y = y * nn.sigmoid(gate[..., 0])[:, None, None, :]
                if x.shape != y.shape:
                    x = norm()(conv(features, (1, 1), (stride, stride), padding=0)(x))
                x = nn.relu(x + y)
        return nn.Dense(self.num_classes, dtype=jnp.float32)(jnp.mean(x, (1, 2), dtype=jnp.float32))
