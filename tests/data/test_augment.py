"""Augmentation policies against timm's and torchvision's on PIL, given the same draws."""

import types

import numpy as np
import pytest
from data_fixtures import jpeg
from PIL import Image
from scipy import stats

from eca_jax.data.augment import Moving, parse
from eca_jax.data.augment.levels import LEVELLED
from eca_jax.data.augment.operation import pick, uniform
from eca_jax.data.augment.policies import _TRIVIAL, ColorJitter, TrivialAugmentWide
from eca_jax.data.decode import decode
from eca_jax.data.order import example_rng
from eca_jax.weights.torch.peer import import_timm, import_torchvision

IMAGES = [decode(jpeg(seed, 37 + seed, 53 - seed)) for seed in range(20)]
FILL = (124, 116, 104)


def rng_of(number):
    return example_rng(0, 0, number, "test")


@pytest.fixture
def timm(monkeypatch):
    """timm's module, which draws from `draws(rng)` once that was called."""
    import_timm()
    from timm.data import auto_augment

    def draws(rng, choose=None):
        source = types.SimpleNamespace(
            random=rng.random,
            uniform=lambda low, high: uniform(rng, low, high),
            gauss=lambda mean, deviation: mean + deviation * rng.standard_normal(),
            choice=lambda options: options[pick(rng, len(options))],
        )
        numpy = types.SimpleNamespace(choice=lambda options, *_, **__: [options[i] for i in choose(rng)])
        monkeypatch.setattr(auto_augment, "random", source)
        monkeypatch.setattr(auto_augment, "np", types.SimpleNamespace(random=numpy))

    auto_augment.draws = draws
    return auto_augment


def of_peer(operation, image):
    """What timm makes of it. Where it asks Pillow for 0 bits, which Pillow 13 refuses: black, as Pillow had it."""
    try:
        return np.asarray(operation(image))
    except ValueError:
        assert operation.name.startswith("Posterize")
        return np.zeros_like(np.asarray(image))


MOVING = [name for name in LEVELLED if name.startswith(("Rotate", "Shear", "Translate"))]


@pytest.mark.parametrize(
    "name, interpolation",
    [(name, "bilinear") for name in LEVELLED] + [(name, kind) for kind in ("bicubic", "random") for name in MOVING],
)
def test_every_operation_at_every_level_is_timms(name, interpolation, timm):
    settings = {"img_mean": FILL}
    if interpolation != "random":
        settings["interpolation"] = Image.Resampling[interpolation.upper()]
    how = Moving(interpolation, FILL)
    for level in np.linspace(0, 10, 20).tolist():
        peer = timm.AugmentOp(name, prob=1.0, magnitude=level, hparams=settings)
        for number, image in enumerate(IMAGES):
            timm.draws(rng_of(number))
            ours = LEVELLED[name](image, level, how, rng_of(number))
            np.testing.assert_array_equal(np.asarray(ours), of_peer(peer, image), f"level {level}, image {number}")


def test_no_bits_are_black():
    ours = LEVELLED["PosterizeIncreasing"](IMAGES[0], 10, Moving("bilinear", FILL), rng_of(0))
    assert not np.asarray(ours).any()


@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
@pytest.mark.parametrize(
    "spec",
    [
        "rand-m7-mstd0.5-inc1",
        "rand-m9-mstd0.5-inc1-mmax9",
        "rand-m9-n3-mstd101-inc1",
        "rand-m6-p0.9-n4-mmax20-mstd1.0-inc1",
        "rand-m9-inc1-tweights-n3",
        "rand-m8-t3a",
        "rand-m7-t3aw-mstd1",
        "rand-m9",
        "original",
        "originalr-mstd0.5",
        "v0r",
        "v0-mstd0.5",
        "3a",
    ],
)
def test_policies_are_timms(spec, interpolation, timm):
    """As timm's own factory builds them: filled with the mean colour, filtered by the training interpolation."""
    (ours,) = parse(spec, Moving(interpolation, FILL))
    settings = {"img_mean": FILL}
    if interpolation != "random":
        settings["interpolation"] = Image.Resampling[interpolation.upper()]
    build = timm.rand_augment_transform if spec.startswith("rand") else timm.auto_augment_transform
    peer = build(spec, settings)
    changed = 0
    for number in range(60):
        image = IMAGES[number % len(IMAGES)]
        timm.draws(rng_of(number), getattr(ours, "choose", None))
        try:
            expected = np.asarray(peer(image))
        except ValueError:  # 0 bits, see above
            continue
        found = np.asarray(ours(image, rng_of(number)))
        np.testing.assert_array_equal(found, expected, f"image {number}")
        changed += not np.array_equal(found, np.asarray(image))
    assert changed >= 25


@pytest.mark.parametrize("operation", _TRIVIAL)
def test_trivial_augment_is_torchvisions(operation):
    from torchvision.transforms import autoaugment

    mode = import_torchvision().transforms.InterpolationMode.BILINEAR
    strengths, signed = _TRIVIAL[operation]
    peer, peer_signed = autoaugment.TrivialAugmentWide()._augmentation_space(31)[operation]
    peer = peer.tolist() if peer.ndim else []
    np.testing.assert_allclose(strengths, peer, rtol=1e-6)
    # What is cut to whole pixels or bits is so to the same: except that PyTorch's 16 may be 15.999999.
    assert [int(value) for value in strengths] == [int(value + 1e-5) for value in peer]
    assert signed == peer_signed
    ours = TrivialAugmentWide(Moving("bilinear", (0, 0, 0)))
    for number, strength in enumerate((*strengths, *(-value for value in strengths if signed)) or (0.0,)):
        image = IMAGES[number % len(IMAGES)]
        expected = autoaugment._apply_op(image, operation, strength, interpolation=mode, fill=None)
        found = ours.apply(image, operation, strength, rng_of(number))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), f"strength {strength}")


def test_trivial_augment_applies_each_operation_equally_often(monkeypatch):
    policy, counts = TrivialAugmentWide(Moving("bilinear", (0, 0, 0))), dict.fromkeys(_TRIVIAL, 0)

    def count(self, image, operation, strength, rng):
        counts[operation] += 1
        return image

    monkeypatch.setattr(TrivialAugmentWide, "apply", count)
    for number in range(7000):
        policy(IMAGES[0], rng_of(number))
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_colour_jitter_is_torchvisions(monkeypatch):
    transforms = import_torchvision().transforms
    ours, peer = ColorJitter(0.4), transforms.ColorJitter(0.4, 0.4, 0.4)
    for number, image in enumerate(IMAGES):
        order, factors = ours.draw(rng_of(number))
        assert sorted(order) == [0, 1, 2] and all(0.6 <= factor <= 1.4 for factor in factors)
        given = [*order, 3], *factors, None
        monkeypatch.setattr(transforms.ColorJitter, "get_params", staticmethod(lambda *_, given=given: given))
        np.testing.assert_array_equal(np.asarray(ours(image, rng_of(number))), np.asarray(peer(image)))


def test_rand_augment_chooses_evenly_and_by_weight():
    how = Moving("bilinear", FILL)
    (even,) = parse("rand-m9-inc1", how)
    counts = np.bincount([choice for number in range(10_000) for choice in even.choose(rng_of(number))], minlength=15)
    assert len(even.operations) == 15
    assert stats.chisquare(counts).pvalue > 0.01
    (weighted,) = parse("rand-m9-n1-t3aw", how)
    counts = np.bincount([weighted.choose(rng_of(number))[0] for number in range(20_000)], minlength=14)
    assert stats.chisquare(counts, 20_000 * np.array(weighted.weights)).pvalue > 0.01
    (pairs,) = parse("rand-m9-n2-t3aw", how)
    assert all(len(set(pairs.choose(rng_of(number)))) == 2 for number in range(500))  # no operation twice


@pytest.mark.parametrize(
    "spec, message",
    [
        ("rand-m7-x3", "'x3' is none of m, n, p, mstd, mmax, inc"),
        ("rand-m", "'m' is none of"),
        ("rand-m7-tfoo", "no set 'foo', only 3a, 3aw, weights"),
        ("v1", "unknown augmentation 'v1': choose of rand-..., original"),
        ("original-m9", "'m9' is none of mstd"),
        ("jitter", "unknown augmentation 'jitter'"),
        ("ta_wide+", "unknown augmentation ''"),
    ],
)
def test_strings_that_name_nothing_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec, Moving("bilinear", FILL))


def test_operations_draw_independently_of_each_other():
    """From keys of their own: (seed, epoch, example, name), each part of which matters."""
    first = example_rng(1, 2, 3, "a").random(4)
    np.testing.assert_array_equal(first, example_rng(1, 2, 3, "a").random(4))
    for other in ((2, 2, 3, "a"), (1, 3, 3, "a"), (1, 2, 4, "a"), (1, 2, 3, "b")):
        assert not np.isin(example_rng(*other).random(4), first).any()
