"""Mixing, erasing and losses on the device are timm's, and what is drawn for a row depends on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from scipy import stats

from eca_jax import create_model
from eca_jax.models.inputs import Preprocessing
from eca_jax.tasks.classification import Classification
from eca_jax.tasks.erase import BITS, Erase, normal_noise
from eca_jax.tasks.losses import binary_cross_entropy, smoothed, soft_cross_entropy
from eca_jax.tasks.mix import UNIFORMS, Mix, beta, box_of
from eca_jax.tasks.task import EPOCH
from eca_jax.weights.card import Card
from eca_jax.weights.torch.peer import import_timm

import_timm()

from timm.data.mixup import Mixup, cutmix_bbox_and_lam  # noqa: E402
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy  # noqa: E402

EXAMPLES, HEIGHT, WIDTH, CLASSES, SMOOTHING = 8, 12, 10, 6, 0.1


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_mixing_is_timms(mode, monkeypatch):
    rng = np.random.default_rng(3)
    images = rng.normal(size=(EXAMPLES, HEIGHT, WIDTH, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    number = {"batch": 1, "pair": EXAMPLES // 2, "elem": EXAMPLES}[mode]
    share = rng.uniform(0.05, 0.95, number).astype(np.float32)
    ys, xs = rng.integers(0, HEIGHT, number), rng.integers(0, WIDTH, number)
    corrected = []
    for cut in (np.zeros(number, bool), np.ones(number, bool), np.arange(number) % 2 == 0):
        theirs = Mixup(0.2, 1.0, mode=mode, label_smoothing=SMOOTHING, num_classes=CLASSES)
        one = (float(share[0]), bool(cut[0]))
        monkeypatch.setattr(theirs, "_params_per_batch", lambda one=one: one)
        monkeypatch.setattr(theirs, "_params_per_elem", lambda size, cut=cut: (share.copy(), cut))
        centres = iter(value for i in range(number) if cut[i] for value in (ys[i], xs[i]))
        monkeypatch.setattr(np.random, "randint", lambda *args, centres=centres, **kwargs: next(centres))
        expected, targets = theirs(torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels))

        draws = jax.vmap(box_of, (0, 0, 0, 0, None, None))(share, cut, ys, xs, HEIGHT, WIDTH)
        places = {"batch": [0] * EXAMPLES, "pair": [0, 1, 2, 3, 3, 2, 1, 0], "elem": list(range(EXAMPLES))}[mode]
        draws = jax.tree.map(lambda values, places=places: values[np.array(places)], draws)
        mix = Mix(mixup=0.2, cutmix=1.0, mode=mode, group=EXAMPLES)
        found = mix.images(jnp.asarray(images), draws)
        np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-6)
        kept = draws.kept[:, None]
        ours = smoothed(labels, CLASSES, SMOOTHING) * kept
        ours += smoothed(mix.partners(labels), CLASSES, SMOOTHING) * (1 - kept)
        np.testing.assert_allclose(ours, targets.numpy(), rtol=0, atol=1e-7)
        corrected.append(np.asarray(draws.kept))
    assert np.abs(corrected[0] - corrected[1]).max() > 1e-3  # a box has whole pixels, and ends at the image's edge


def test_a_box_and_its_corrected_share_are_timms(monkeypatch):
    """The box to the pixel, and so the share to its last bit."""
    rng = np.random.default_rng(0)
    shares, ys, xs = rng.random(200, np.float32), rng.integers(0, 224, 200), rng.integers(0, 192, 200)
    draws = jax.vmap(box_of, (0, None, 0, 0, None, None))(shares, np.bool_(True), ys, xs, 224, 192)
    for share, y, x, kept, cut, *box in zip(shares, ys, xs, *map(np.asarray, draws), strict=True):
        centre = iter((y, x))
        monkeypatch.setattr(np.random, "randint", lambda *args, centre=centre, **kwargs: next(centre))
        expected_box, expected = cutmix_bbox_and_lam((8, 3, 224, 192), float(share))
        assert cut and tuple(box) == tuple(expected_box) and kept == pytest.approx(expected, rel=1.2e-7)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_what_is_drawn_for_a_row_depends_on_the_key_and_the_row(mode):
    mix, key = Mix(mixup=0.2, cutmix=1.0, mode=mode, group=4), jax.random.key(5)
    rows = jnp.arange(64)
    drawn = jax.jit(lambda key, rows: mix.draws(key, rows, HEIGHT, WIDTH))
    draws = drawn(key, rows)
    own = drawn(key, rows[24:40])  # of a process, or of a part
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[24:40], b), draws, own)
    kept = np.asarray(draws.kept).reshape(-1, 4)
    numbers = {"batch": 1, "pair": 2, "elem": 4}[mode]
    assert max(len(set(group)) for group in kept.tolist()) == numbers
    if mode != "elem":
        np.testing.assert_array_equal(kept, kept[:, ::-1])
    assert len(np.unique(kept[:, 0])) > 10  # each group has its own
    other = drawn(jax.random.key(6), rows)
    assert np.mean(np.asarray(other.kept) == np.asarray(draws.kept)) < 0.5


class Means(nn.Module):
    """The smallest network: it keeps nothing and its logits are the first pixels'."""

    num_classes: int = CLASSES
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x, train=False):
        return x[:, 0, :2, :].reshape(len(x), CLASSES) + self.param("bias", nn.initializers.zeros, (CLASSES,))


def test_mixing_ends_at_its_epoch():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (EXAMPLES, 4, 4, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, EXAMPLES, dtype=np.int32),
        "mask": np.ones(EXAMPLES, np.float32),
    }
    card, variables = Card("means", {}, Preprocessing(image_size=4)), {"params": {"bias": np.zeros(CLASSES)}}

    def loss(**mix):
        options = {"mix": Mix(mixup=1.0, group=EXAMPLES, **mix)} if mix else {}
        task = Classification(Means(), card, EXAMPLES, open_source=None, label_smoothing=SMOOTHING, **options)
        return jax.jit(lambda epoch: task.loss(variables, {**batch, EPOCH: epoch}, jax.random.key(1))[0])

    ending, mixed, plain = loss(off_epoch=3), loss(off_epoch=0), loss()
    assert float(ending(2)) == float(mixed(2)) != float(plain(2))
    np.testing.assert_allclose([ending(3), ending(9)], plain(3), rtol=1e-6)  # smoothed still, as timm's is


def test_examples_are_mixed_as_often_as_is_asked():
    mix = Mix(mixup=1.0, cutmix=1.0, probability=0.8, switch=0.3, mode="elem", group=2)
    draws = jax.jit(lambda key: mix.draws(key, jnp.arange(2000), 224, 224))(jax.random.key(0))
    mixed = np.asarray(draws.kept) < 1
    assert abs(mixed.mean() - 0.8) < 3 * (0.8 * 0.2 / 2000) ** 0.5 + 0.002  # some boxes have no pixel
    assert abs(np.asarray(draws.cut).mean() - 0.8 * 0.3) < 3 * (0.24 * 0.76 / 2000) ** 0.5
    uncut = np.asarray(draws.kept)[mixed & ~np.asarray(draws.cut)]
    assert abs(uncut.mean() - 0.5) < 3 * (1 / 12 / len(uncut)) ** 0.5  # Beta(1, 1) is uniform


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 2.5])
def test_shares_are_of_their_beta_distribution(alpha):
    uniforms = np.random.default_rng(0).random((4000, UNIFORMS)).astype(np.float32)
    drawn = np.asarray(jax.jit(jax.vmap(lambda numbers: beta(numbers, alpha)))(uniforms))
    lower = drawn[drawn < 0.5]  # float32 is too coarse just below 1 for a small alpha
    assert stats.binomtest(len(lower), len(drawn)).pvalue > 0.01
    assert stats.kstest(lower, lambda x: 2 * stats.beta(alpha, alpha).cdf(x)).pvalue > 0.01


@pytest.mark.parametrize("bad", [{"mode": "group"}, {"mixup": -1.0}, {"switch": 2.0}, {"group": 3}, {"off_epoch": -1}])
def test_mixing_that_cannot_be_is_an_error(bad):
    with pytest.raises(ValueError, match=r"mix|alpha"):
        Mix(**bad)


def test_erased_rectangles_are_timms_in_area_aspect_and_frequency():
    erase, rows, side = Erase(probability=0.4, count=1), jnp.arange(3000), 64
    drawn = jax.jit(lambda rows: erase.boxes(jax.random.key(0), rows, side, side))
    boxes = jax.tree.map(lambda value: np.asarray(value)[:, 0], drawn(rows))
    erased = boxes.height > 0
    assert abs(erased.mean() - 0.4) < 3 * (0.24 / 3000) ** 0.5
    tall, wide, top, left = (value[erased] for value in (boxes.height, boxes.width, boxes.top, boxes.left))
    assert np.all(top >= 0) and np.all(left >= 0) and np.all(top + tall <= side) and np.all(left + wide <= side)
    assert np.all(tall < side) and np.all(wide < side)
    area, aspect = tall * wide / side**2, np.log(tall / wide)
    assert area.min() > 0.01 and area.max() < 0.36
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.01  # uniform
    assert abs(aspect.mean()) < 0.07 and abs(aspect.std() - 2 * -np.log(0.3) / 12**0.5) < 0.07
    own = drawn(rows[7:9])
    np.testing.assert_array_equal(own.top[:, 0], boxes.top[7:9])


@pytest.mark.parametrize("fill", ["pixel", "color", "mean"])
def test_erasing_fills_its_rectangles_and_nothing_else(fill):
    erase = Erase(probability=1.0, fill=fill, count=3)
    images = jnp.full((16, 20, 24, 3), 7.0)
    found = np.asarray(jax.jit(erase.images)(images, jax.random.key(1), jnp.arange(16)))
    changed = found != 7
    assert np.all(changed.all(-1) == changed.any(-1)) and 0.02 < changed.mean() < 0.6
    values = found[changed.any(-1)]
    if fill == "mean":
        assert not np.any(values)
    else:
        assert abs(values.mean()) < (0.5 if fill == "color" else 0.1)
    first = found[0][changed[0].any(-1)]
    assert (len(np.unique(first, axis=0)) == 1) == (fill != "pixel")


@pytest.mark.parametrize("channels", [3, 4])  # of one word, of two
def test_noise_is_normal_and_a_rows_own(channels):
    drawn = jax.jit(lambda rows: normal_noise(jax.random.key(0), rows, 32, 32, channels))
    noise = np.asarray(drawn(jnp.arange(16)))
    np.testing.assert_array_equal(noise[5:7], drawn(jnp.arange(5, 7)))
    # Of the 1,024 values that are as likely, each; the same one may differ in its last digit where vectors end.
    places = stats.norm.cdf(noise) * 2**BITS - 0.5
    np.testing.assert_allclose(places, places.round(), atol=1e-3)
    assert len(np.unique(places.round())) == 2**BITS and abs(noise).max() > 3.2
    bound = 4 / noise[..., 0].size ** 0.5
    values = noise.reshape(-1, channels)
    np.testing.assert_allclose(values.mean(0), 0, atol=bound)
    np.testing.assert_allclose(values.T @ values / len(values), np.eye(channels), atol=2 * bound)


@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_binary_cross_entropy_is_timms(threshold, sum_classes):
    rng = np.random.default_rng(0)
    logits = (5 * rng.normal(size=(9, CLASSES))).astype(np.float32)
    labels = rng.integers(0, CLASSES, 9)
    theirs = BinaryCrossEntropy(SMOOTHING, threshold, sum_classes=sum_classes)
    ours = binary_cross_entropy(
        jnp.asarray(logits), smoothed(labels, CLASSES, SMOOTHING), threshold=threshold, sum_classes=sum_classes
    )
    expected = theirs(torch.tensor(logits), torch.tensor(labels)).item()
    np.testing.assert_allclose(ours.mean(), expected, rtol=1e-5)
    soft = rng.dirichlet(np.ones(CLASSES), 9).astype(np.float32)
    expected = SoftTargetCrossEntropy()(torch.tensor(logits), torch.tensor(soft)).item()
    np.testing.assert_allclose(soft_cross_entropy(logits, soft).mean(), expected, rtol=1e-5)


OPTIONS = {"num_classes": CLASSES, "stage_sizes": (1, 0, 0, 0), "small_images": True}


def task(**options):
    model = create_model("eca_resnet18", **OPTIONS)
    card = Card("eca_resnet18", OPTIONS, Preprocessing(image_size=8))
    return Classification(model, card, EXAMPLES, open_source=None, **options)


def test_the_loss_is_of_mixed_images_against_mixed_labels_and_leaves_what_cannot_be_read_alone():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (EXAMPLES, 8, 8, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, EXAMPLES, dtype=np.int32),
        "mask": np.array([1, 1, 1, 0, 1, 1, 1, 1], np.float32),
    }
    mix, plain = task(mix=Mix(mixup=1.0, group=EXAMPLES), loss_name="binary"), task(loss_name="binary")
    variables, key = jax.jit(plain.init)(jax.random.key(0)), jax.random.key(1)
    _, (_, sums) = jax.jit(mix.loss)(variables, batch, key)

    draws = mix.mix.draws(jax.random.fold_in(key, 0), jnp.arange(EXAMPLES), 8, 8)
    share = np.array(draws.kept)
    assert 0 < share[0] < 1 and len(set(share.tolist())) == 1
    share[[3, 4]] = 1  # the partner of the one that cannot be read stays as it is
    pixels = batch["image"] * share[:, None, None, None] + batch["image"][::-1] * (1 - share[:, None, None, None])
    mean, std = np.array(plain.preprocessing.mean), np.array(plain.preprocessing.std)
    inputs = jnp.asarray((pixels / 255 - mean) / std, jnp.float32)
    logits, _ = jax.jit(lambda v: plain.model.apply(v, inputs, train=True, mutable=["batch_stats"]))(variables)
    one_hot = np.eye(CLASSES)[batch["label"]]
    targets = one_hot * share[:, None] + one_hot[::-1] * (1 - share[:, None])
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(np.asarray(logits)), torch.tensor(targets, dtype=torch.float32), reduction="none"
    ).mean(1)
    np.testing.assert_allclose(sums["loss"], (losses.numpy() * batch["mask"]).sum(), rtol=1e-4)
    assert float(sums["count"]) == 7
