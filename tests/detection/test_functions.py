"""Functions of the detectors against torchvision's, on tiny inputs."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.models.detection import anchors, boxes, losses, matching, nms, roi_align
from eca_jax.models.detection.rules import MMDET1, TORCHVISION, rules
from eca_jax.weights.torch.peer import import_torchvision

torch = pytest.importorskip("torch")
torchvision = import_torchvision()


def random_boxes(rng, count, extent=100.0, least=1.0, largest=60.0):
    corner = rng.uniform(0, extent, (count, 2))
    side = rng.uniform(least, largest, (count, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def greedy(box, score, group, threshold):
    """Suppression as it is defined, one box at a time, in torchvision's arithmetic."""
    order = np.argsort(-score, kind="stable")
    overlap = torchvision.ops.box_iou(torch.tensor(box), torch.tensor(box)).numpy()
    kept = []
    for i in order:
        if all(group[i] != group[j] or not overlap[j, i] > threshold for j in kept):
            kept.append(i)
    return kept


def test_iou_is_torchvisions_and_of_empty_boxes_zero():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 20), random_boxes(rng, 7)
    expected = torchvision.ops.box_iou(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(boxes.iou(a, b), expected, atol=1e-6)
    assert boxes.iou(jnp.zeros((1, 4)), jnp.zeros((1, 4))) == 0


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_the_coder_is_torchvisions(weights):
    from torchvision.models.detection._utils import BoxCoder

    rng = np.random.default_rng(1)
    anchor, box = random_boxes(rng, 30), random_boxes(rng, 30)
    coder = BoxCoder(weights)
    encoded = coder.encode_single(torch.tensor(box), torch.tensor(anchor)).numpy()
    np.testing.assert_allclose(boxes.encode(box, anchor, weights), encoded, rtol=1e-5, atol=1e-5)
    deltas = rng.normal(0, 5, (30, 4)).astype(np.float32)
    decoded = coder.decode_single(torch.tensor(deltas), torch.tensor(anchor)).numpy()
    np.testing.assert_allclose(boxes.decode(deltas, anchor, weights), decoded, rtol=1e-5, atol=1e-3)


def test_mmdetections_coder_counts_the_last_pixel():
    anchor = jnp.array([[0.0, 0.0, 9.0, 19.0]])  # 10 x 20 pixels
    np.testing.assert_allclose(boxes.decode(jnp.zeros((1, 4)), anchor, offset=1.0), anchor)
    box = jnp.array([[10.0, 5.0, 29.0, 24.0]])
    back = boxes.decode(boxes.encode(box, anchor, offset=1.0), anchor, offset=1.0)
    np.testing.assert_allclose(back, box, atol=1e-5)
    assert boxes.areas(anchor, 1.0) == 200


def test_boxes_are_clipped_to_their_image():
    rng = np.random.default_rng(2)
    box = random_boxes(rng, 20) - 20
    expected = torchvision.ops.clip_boxes_to_image(torch.tensor(box), (40, 60)).numpy()
    np.testing.assert_array_equal(boxes.clip(box, jnp.array([40, 60])), expected)


@pytest.mark.parametrize("kind", ["rpn", "retina"])
@pytest.mark.parametrize("canvas", [(800, 1344), pytest.param((832, 1344), marks=pytest.mark.slow)])
def test_anchors_are_torchvisions_for_each_padded_size(kind, canvas):
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.retinanet import _default_anchorgen

    strides = (16, 32, 64) if kind == "rpn" else (32, 64, 128)
    padded = np.array([[800, 1088], [768, 1344]], np.int32)
    make = anchors.rpn_cells if kind == "rpn" else anchors.retina_cells
    every = make([4, 8, 16, 32, 64] if kind == "rpn" else [8, 16, 32, 64, 128], TORCHVISION)[2:]
    if kind == "rpn":
        generator = AnchorGenerator(((128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 3)
    else:
        whole = _default_anchorgen()
        generator = AnchorGenerator(whole.sizes[2:], whole.aspect_ratios[2:])
    for level, (cells, stride) in enumerate(zip(every, strides, strict=True)):
        ours, inside = anchors.level_anchors(cells, stride, canvas, padded, TORCHVISION)
        for image, (height, width) in enumerate(padded):
            grids = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]
            images = ImageList(torch.zeros(1, 1, height, width), [(height, width)])
            counts = [g.numel() * len(cells) for g in grids]
            expected = generator(images, grids)[0].split(counts)[level].numpy()
            np.testing.assert_array_equal(ours[image][inside[image]], expected)


def test_mmdetections_anchors_are_centred():
    cells = anchors.rpn_cells((16,), MMDET1)[0]
    # Half a pixel before the middle of 16, 7.5; 128 pixels in three shapes, 181.02 x 90.51 the first; rounded.
    np.testing.assert_array_equal(cells, [[-83, -37, 98, 52], [-56, -56, 71, 71], [-37, -83, 52, 98]])


def test_suppression_equals_the_greedy_loop_with_ties_and_duplicates():
    rng = np.random.default_rng(3)
    run = jax.jit(nms.nms, static_argnums=(3, 4))
    for trial in range(100):
        box = np.round(random_boxes(rng, 48, 40, 4, 30) / 4) * 4  # a coarse grid: equal overlaps and duplicates
        score = (np.round(rng.uniform(0, 1, 48) * 12) / 12).astype(np.float32)
        group = rng.integers(0, 1 + trial % 3, 48)
        indices, found = run(box, score, group, 0.5, 48)
        np.testing.assert_array_equal(indices[found], greedy(box, score, group, 0.5))


def test_suppression_never_returns_places_without_a_box():
    box = random_boxes(np.random.default_rng(4), 8)
    scores = jnp.where(jnp.arange(8) < 3, -5.0, -jnp.inf)
    indices, found = nms.nms(box, scores, jnp.arange(8), 0.5, 20)
    assert found.sum() == 3 and set(np.asarray(indices[found])) == {0, 1, 2}


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("padding", [0, 5])
def test_matching_is_torchvisions_whatever_the_padding(low_quality, padding):
    from torchvision.models.detection._utils import Matcher

    rng = np.random.default_rng(5)
    truth, box = random_boxes(rng, 4), random_boxes(rng, 200)
    expected = Matcher(0.5, 0.3, low_quality)(torchvision.ops.box_iou(torch.tensor(truth), torch.tensor(box))).numpy()
    pad = lambda a: np.pad(a, ((0, padding), (0, 0)))  # noqa: E731
    ours = matching.match(
        pad(truth),
        np.arange(4 + padding) < 4,
        pad(box),
        np.arange(200 + padding) < 200,
        positive=0.5,
        negative=0.3,
        least=0.0 if low_quality else None,
    )
    np.testing.assert_array_equal(ours[:200], expected)
    assert np.all(ours[200:] == matching.IGNORED)


def test_an_image_without_objects_is_all_background():
    matched = matching.match(
        jnp.zeros((3, 4)), jnp.zeros(3, bool), random_boxes(np.random.default_rng(6), 9), jnp.ones(9, bool),
        positive=0.5, negative=0.4, least=0.0,
    )  # fmt: skip
    assert np.all(matched == matching.BACKGROUND)


def test_sampling_takes_the_share_of_positives_and_fills_up_with_negatives():
    positive, negative = jnp.arange(50) < 20, jnp.arange(50) >= 30
    indices, chosen = matching.sample(positive, negative, jax.random.uniform(jax.random.key(0), (50,)), 16, 4)
    assert chosen.all() and len(set(np.asarray(indices))) == 16
    assert positive[indices].sum() == 4 and negative[indices].sum() == 12
    few, chosen = matching.sample(positive & (jnp.arange(50) < 2), negative, jnp.zeros(50), 30, 15)
    assert chosen.sum() == 22 and positive[few[chosen]].sum() == 2
    none, chosen = matching.sample(jnp.zeros(5, bool), jnp.zeros(5, bool), jnp.zeros(5), 8, 4)
    assert none.shape == (8,) and not chosen.any()


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize("beyond, whole", [(0, 1024), (6, 1024), (6, 0)])  # over whole maps, or gathered
def test_roi_align_is_torchvisions_also_on_a_larger_map(size, beyond, whole, monkeypatch):
    monkeypatch.setattr(roi_align, "WHOLE_MAPS", whole)
    peer = importlib.import_module("torchvision.ops.roi_align")

    rng = np.random.default_rng(7)
    grid = (20, 25)
    feature = rng.normal(size=(2, 3, *grid)).astype(np.float32)
    box = np.stack([random_boxes(rng, 11, 60, 0.5, 40) for _ in range(2)])
    box[:, 0] = [0, 0, 100, 80]
    box[:, 1] = [90, 70, 97, 77]
    box = np.minimum(box, [96, 76, 100, 80]).astype(np.float32)
    expected = peer._roi_align.__wrapped__(  # not compiled, which takes a minute
        torch.tensor(feature),
        torch.cat([torch.cat([torch.full((11, 1), i), torch.tensor(box[i])], dim=1) for i in range(2)]).float(),
        torch.tensor(0.25), size, size, 2, False,
    )  # fmt: skip
    larger = np.pad(feature.transpose(0, 2, 3, 1), ((0, 0), (0, beyond), (0, beyond), (0, 0)), constant_values=9.0)
    grids = [jnp.array([grid, grid])]
    ours = roi_align.roi_align([larger], grids, box, strides=(4,), output_size=size, rules=TORCHVISION, chunk=4)
    expected = expected.numpy().reshape(2, 11, 3, size, size).transpose(0, 1, 3, 4, 2)
    np.testing.assert_allclose(ours, expected, atol=5e-5)


@pytest.mark.slow
def test_the_gradient_of_gathered_regions_is_that_of_whole_maps(monkeypatch):
    """Whose derivative is JAX's own; regions share cells, lie over the border, and leave a chunk half full."""
    rng = np.random.default_rng(9)
    maps = [jnp.asarray(rng.normal(size=(2, 24 // 2**i, 20 // 2**i, 3)), jnp.float32) for i in range(2)]
    grids = [jnp.array([[22, 20], [24, 17]]), jnp.array([[11, 10], [12, 9]])]
    box = np.stack([random_boxes(rng, 7, 60, 0.5, 300) for _ in range(2)]).astype(np.float32)
    weights = jnp.asarray(rng.normal(size=(2, 7, 7, 7, 3)), jnp.float32)

    def loss(maps):
        crops = roi_align.roi_align(maps, grids, box, strides=(4, 8), output_size=7, rules=TORCHVISION, chunk=3)
        return jnp.sum(crops * weights)

    expected = jax.jit(jax.grad(loss))(maps)
    monkeypatch.setattr(roi_align, "WHOLE_MAPS", 0)
    gathered = jax.jit(jax.grad(lambda maps: loss(maps)))(maps)
    for ours, whole in zip(gathered, expected, strict=True):
        assert jnp.abs(whole).max() > 1
        np.testing.assert_allclose(ours, whole, atol=1e-5)


def test_levels_are_torchvisions():
    from torchvision.ops.poolers import LevelMapper

    rng = np.random.default_rng(8)
    sides = np.concatenate([rng.uniform(1, 1300, 20000), [56, 112, 224, 448, 896]]).astype(np.float32)
    box = np.stack([np.zeros_like(sides), np.zeros_like(sides), sides, sides], axis=1)
    expected = LevelMapper(2, 5, 224, 4, 1e-6)([torch.tensor(box)]).numpy()
    np.testing.assert_array_equal(roi_align.levels(box, TORCHVISION), expected)


def test_roi_align_reads_each_box_from_its_level():
    maps = [jnp.full((1, 128 // 2**i, 128 // 2**i, 2), float(i)) for i in range(4)]
    box = jnp.array([[[0, 0, 50, 50], [0, 0, 120, 120], [0, 0, 230, 230], [0, 0, 480, 480]]], jnp.float32)
    grids = [jnp.array([m.shape[1:3]]) for m in maps]
    crops = roi_align.roi_align(maps, grids, box, strides=(4, 8, 16, 32), output_size=2, rules=TORCHVISION)
    np.testing.assert_allclose(crops[0, :, 0, 0, 0], [0, 1, 2, 3])


def test_losses_are_torchs():
    rng = np.random.default_rng(9)
    logits, targets = rng.normal(0, 3, (40,)).astype(np.float32), rng.integers(0, 2, 40).astype(np.float32)
    x, y = torch.tensor(logits), torch.tensor(targets)
    f = torch.nn.functional
    bce = f.binary_cross_entropy_with_logits(x, y, reduction="none")
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, targets), bce, atol=1e-6)
    np.testing.assert_allclose(losses.focal(logits, targets), torchvision.ops.sigmoid_focal_loss(x, y), atol=1e-6)
    for beta in (1 / 9, 0.0):
        expected = f.smooth_l1_loss(x, y, reduction="none", beta=beta)
        np.testing.assert_allclose(losses.smooth_l1(logits, targets, beta), expected, atol=1e-6)
    classes = rng.normal(0, 3, (10, 5)).astype(np.float32)
    labels = rng.integers(0, 5, 10)
    expected = f.cross_entropy(torch.tensor(classes), torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(losses.cross_entropy(classes, labels), expected, atol=1e-6)


def test_an_unknown_preset_is_one_line():
    with pytest.raises(ValueError, match="rules must be one of torchvision"):
        rules("mmdet2")
