"""Mixup and CutMix inside the training step, by groups of consecutive examples.

Zhang et al., ICLR 2018, and Yun et al., ICCV 2019, as timm's `Mixup` has them: an example's partner is the one in its
place in the group turned round. A group that lies on one device needs no other, so nothing is communicated; timm
draws for each process's share of a batch what is drawn here for a group.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eca_jax.kernels import turned

MODES = ("batch", "pair", "elem")
# Of a draw of Gamma, and the numbers from which one of Beta is made.
TRIES = 12
UNIFORMS = 2 * (2 * TRIES + 1)
TINY = 1e-30


class Draws(NamedTuple):
    """What is drawn for each example: the share kept of it, float32 [N], and the box [N] that CutMix replaces.

    top, bottom, left, right: int32 [N], the box's rows and columns from the first to the one after the last; where
      Mixup mixes, or nothing does, `cut` is False and the box does not matter.
    """

    kept: jax.Array
    cut: jax.Array
    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array


@dataclasses.dataclass(frozen=True)
class Mix:
    """Mixup or CutMix of images and their labels.

    Attributes:
      mixup, cutmix: alpha of each one's Beta(alpha, alpha), from which the share kept is drawn; 0 is without.
      probability: of mixing at all.
      switch: probability of CutMix where both are there.
      mode: what is drawn once: "batch" for a group, "pair" for two partners, "elem" for each example.
      group: examples of a group, even.
      off_epoch: the first epoch without mixing; 0 mixes to the end.

    Raises:
      ValueError: a value out of its range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5
    mode: str = "batch"
    group: int = 64
    off_epoch: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r} of mixing: choose one of {', '.join(MODES)}")
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError("mixup and cutmix take an alpha of 0 or more")
        if not (0 <= self.probability <= 1 and 0 <= self.switch <= 1):
            raise ValueError("probability and switch of mixing lie between 0 and 1")
        if self.off_epoch < 0:
            raise ValueError(f"off_epoch of mixing is an epoch, or 0, not {self.off_epoch}")
        if self.group < 2 or self.group % 2:
            raise ValueError(f"a group of mixing is of an even number of examples, not {self.group}")

    def __bool__(self) -> bool:
        return self.probability > 0 and max(self.mixup, self.cutmix) > 0

    def draws(self, key: jax.Array, rows: jax.Array, height: int, width: int) -> Draws:
        """What is drawn for the examples in these rows of the batch, int32 [N], N a multiple of the group.

        A function of the key and the rows: the same whatever else is in the array.
        """
        row, group = rows % self.group, rows // self.group
        # What is drawn once has one number. Partners have theirs from the first of the two.
        number = {"batch": 0 * row, "pair": jnp.minimum(row, self.group - 1 - row), "elem": row}[self.mode]
        numbers = group * self.group + number

        def draw(number: jax.Array) -> Draws:
            # Of one call, since every small program costs a TPU as much as a pass over a thousand numbers.
            drawn = jax.random.uniform(jax.random.fold_in(key, number), (4 + 2 * UNIFORMS,), minval=TINY)
            mixes, cuts, y, x = drawn[:4]
            switched = cuts < self.switch if self.mixup and self.cutmix else jnp.asarray(self.cutmix > 0)
            share_of_mixup = beta(drawn[4 : 4 + UNIFORMS], self.mixup) if self.mixup else 1.0
            share_of_cutmix = beta(drawn[4 + UNIFORMS :], self.cutmix) if self.cutmix else 1.0
            share = jnp.where(mixes < self.probability, jnp.where(switched, share_of_cutmix, share_of_mixup), 1.0)
            place = (y * height).astype(jnp.int32), (x * width).astype(jnp.int32)
            return box_of(share, switched & (share < 1), *place, height, width)

        if self.mode != "batch":
            return jax.vmap(draw)(numbers)
        drawn = jax.vmap(draw)(numbers[:: self.group])
        return Draws(*(jnp.repeat(values, self.group) for values in drawn))

    def images(self, images: jax.Array, draws: Draws) -> jax.Array:
        """Mixed images [N, H, W, C] in float32, or in their own dtype where there is CutMix alone."""
        partners = self.partners(images)
        _, height, width, _ = images.shape
        if self.mixup:
            share = jnp.where(draws.cut, 1.0, draws.kept)[:, None, None, None]
            images, partners = images.astype(jnp.float32), partners.astype(jnp.float32)
            mixed = images * share + partners * (1.0 - share)
        else:
            mixed = images
        if not self.cutmix:
            return mixed
        y, x = jnp.arange(height)[None, :, None, None], jnp.arange(width)[None, None, :, None]
        top, bottom, left, right = (edge[:, None, None, None] for edge in draws[2:])
        inside = draws.cut[:, None, None, None] & (y >= top) & (y < bottom) & (x >= left) & (x < right)
        return jnp.where(inside, partners, mixed)

    def partners(self, values: jax.Array) -> jax.Array:
        """Each example's partner, [N, ...]."""
        return turned(values, self.group)


def beta(uniforms: jax.Array, alpha: float) -> jax.Array:
    """A draw of Beta(alpha, alpha), float32 scalar, from `UNIFORMS` numbers between 0 and 1.

    `jax.random.beta` tries until it accepts: loops whose ends all devices would have to agree upon.
    """
    if alpha == 1:
        return uniforms[0]
    first, second = (_log_gamma(part, alpha) for part in uniforms.reshape(2, -1))
    return jnp.exp(first - jnp.logaddexp(first, second))


def _log_gamma(uniforms: jax.Array, alpha: float) -> jax.Array:
    """The logarithm of a draw of Gamma(alpha): of `TRIES` the first that is accepted, which one in twenty is not.

    Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 2000.
    """
    deviates, u, last = uniforms[:TRIES], uniforms[TRIES:-1], uniforms[-1]
    x = math.sqrt(2) * jax.lax.erf_inv(2 * deviates - 1)
    d = (alpha if alpha >= 1 else alpha + 1) - 1 / 3
    v = jnp.maximum((1 + x / math.sqrt(9 * d)) ** 3, TINY)
    accepted = (v > TINY) & (jnp.log(u) < 0.5 * x * x + d - d * v + d * jnp.log(v))
    drawn = jnp.log(d * v[jnp.argmax(accepted)])
    return drawn + jnp.log(last) / alpha if alpha < 1 else drawn


def box_of(share: jax.Array, cut: jax.Array, y: jax.Array, x: jax.Array, height: int, width: int) -> Draws:
    """The draws of an example from the share kept, whether it is CutMix, and the box's centre, all scalars.

    The box has 1 - share of the image's area before it is clipped to the image; the share is then corrected to what
    of the image is left.
    """
    side = jnp.sqrt(1.0 - share)
    tall, wide = (height * side).astype(jnp.int32), (width * side).astype(jnp.int32)
    top, bottom = jnp.clip(y - tall // 2, 0, height), jnp.clip(y + (tall + 1) // 2, 0, height)
    left, right = jnp.clip(x - wide // 2, 0, width), jnp.clip(x + (wide + 1) // 2, 0, width)
    left_over = (height * width - (bottom - top) * (right - left)).astype(jnp.float32)
    return Draws(jnp.where(cut, left_over / (height * width), share), cut, top, bottom, left, right)
