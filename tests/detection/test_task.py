"""The task of detection: batches, frozen parameters, COCO's figures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eca_jax
from eca_jax.data import objects
from eca_jax.data.batch import IMAGE, MASK
from eca_jax.data.sources.shapes import ShapesSource
from eca_jax.tasks.coco import CocoMeter
from eca_jax.training.optimizer import make_optimizer

LAYOUT = objects.Layout((64, 96), 48, 80, objects=5, mask_size=14)


@pytest.fixture(scope="module")
def shapes():
    return ShapesSource((40, 60), {"train": 12, "validation": 7})


def test_sizes_are_torchvisions_floors():
    assert objects.resized_size((480, 640), 800, 1333) == (800, 1066)
    assert objects.resized_size((360, 640), 800, 1333) == (749, 1333)
    assert objects.resized_size((289, 300), 800, 1333)[0] == 799


def test_resizing_is_torchs():
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).uniform(0, 255, (37, 53, 3)).astype(np.float32)
    for size in ((20, 30), (70, 91)):
        expected = torch.nn.functional.interpolate(
            torch.tensor(image).permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(
            objects.resize_bilinear(image, size), expected[0].permute(1, 2, 0).numpy(), atol=2e-3
        )


def test_processes_share_the_rows_of_a_batch_and_a_resumed_run_goes_on(shapes):
    def batches(start=0, index=0, count=1):
        return objects.train_batches(
            shapes, LAYOUT, batch_size=4, seed=3, start_step=start, process_index=index, process_count=count
        )

    whole = batches()
    first, second = next(whole), next(whole)
    parts = [next(batches(index=i, count=2)) for i in range(2)]
    for key in first:
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), first[key])
        np.testing.assert_array_equal(next(batches(start=1))[key], second[key])


def test_every_batch_of_an_epoch_has_one_orientation_but_for_the_last():
    source = ShapesSource((40, 60), {"train": 19, "validation": 1}, both=True)
    upright = np.arange(19) % 2 == 1
    orders = []
    for epoch in (0, 1):
        rows, turned = objects.oriented_rows(upright, 4, 5, epoch)
        assert rows.shape == (4, 4) and len(set(rows.ravel())) == 16
        shares = upright[rows].mean(axis=1)
        assert np.sum((shares > 0) & (shares < 1)) <= 1 and 0 < turned.sum() < 4
        np.testing.assert_array_equal(turned, shares > 0.5)
        orders.append(rows)
    assert np.any(orders[0] != orders[1])
    batches = objects.train_batches(source, LAYOUT, batch_size=4, seed=5)
    for rows, turn in zip(*objects.oriented_rows(upright, 4, 5, 0), strict=True):
        batch = next(batches)
        np.testing.assert_array_equal(batch["number"], rows)
        assert batch[IMAGE].shape == ((4, 96, 64, 3) if turn else (4, 64, 96, 3))
        # Only an image of a mixed batch is smaller than the layout has it.
        fits = batch["size"].min(axis=1) == 48
        np.testing.assert_array_equal(fits, upright[rows] == turn)


def test_a_mirrored_row_has_the_objects_where_the_pixels_are(shapes):
    example = shapes.examples("train")[0]
    plain, mirrored = (objects.make_row(example, 0, flip, LAYOUT) for flip in (False, True))
    height, width = plain["size"]
    np.testing.assert_array_equal(mirrored[IMAGE][:height, :width], plain[IMAGE][:height, :width][:, ::-1])
    np.testing.assert_allclose(mirrored["boxes"][0, 0], width - plain["boxes"][0, 2], atol=1e-4)
    assert plain["valid"].sum() == len(example.boxes) and plain["masks"][0].any()
    blank = objects.make_row(None, 0, False, LAYOUT)
    assert blank[MASK] == 0 and not blank["valid"].any()


def test_every_image_is_evaluated_once_over_all_processes(shapes):
    seen = []
    for index in range(3):
        for batch in objects.eval_batches(
            shapes, "validation", LAYOUT, batch_size=6, process_index=index, process_count=3
        ):
            seen += batch["number"][batch[MASK] > 0].tolist()
    assert sorted(seen) == list(range(7))


def test_a_perfect_detector_scores_one(shapes):
    pytest.importorskip("pycocotools")
    meter = CocoMeter(shapes, "validation")
    for batch in objects.eval_batches(shapes, "validation", LAYOUT, batch_size=4):
        scale = np.tile(batch["scale"][:, ::-1], 2)[:, None]
        scores = np.where(batch["valid"], 0.9, 0).astype(np.float32)
        masks = np.stack([[np.kron(mask, np.ones((2, 2))) for mask in row] for row in batch["masks"]])
        outputs = {key: batch[key] for key in ("labels", "valid", "number", MASK)}
        meter.add(outputs | {"boxes": batch["boxes"] / scale, "scores": scores, "masks": masks})
    result = meter.result()
    assert result["box_ap"] == pytest.approx(1.0) and result["count"] == 7
    assert result["mask_ap50"] > 0.95


def test_frozen_parameters_stay_also_under_weight_decay():
    optimizer = make_optimizer(lambda step: 0.1, weight_decay=0.5, frozen=("body/(conv1|layer1_)",))
    params = {"body": {name: {"kernel": jnp.ones(2)} for name in ("conv1", "layer1_0", "layer2_0")}}
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    moved = {name: bool(np.any(update["kernel"])) for name, update in updates["body"].items()}
    assert moved == {"conv1": False, "layer1_0": False, "layer2_0": True}


def test_numbers_of_the_rules_are_options_of_the_model():
    model = eca_jax.create_model("retinanet_resnet50_fpn", rule_options={"detections": 7})
    assert model.preset.detections == 7 and model.preset.name == "torchvision"
    with pytest.raises(ValueError, match="rule_options"):
        _ = eca_jax.create_model("retinanet_resnet50_fpn", rule_options={"detectons": 7}).preset


@pytest.mark.slow
def test_published_weights_of_torchvision_run_without_an_epsilon():
    options = {"backbone_options": {"stage_sizes": (1, 1, 1, 1)}, "num_classes": 3}
    image = jnp.ones((1, 64, 64, 3))
    variables = eca_jax.create_model("retinanet_resnet50_fpn", **options).init(jax.random.key(0), image)
    small = jax.tree.map(lambda var: 1e-6 * jnp.ones_like(var), variables["batch_stats"])

    def level(rules):
        model = eca_jax.create_model("retinanet_resnet50_fpn", rules=rules, **options)
        return model.apply({**variables, "batch_stats": small}, image, method=lambda m, x: m.pyramid(x)[0][0])

    assert float(jnp.abs(level("torchvision_v1")).max()) > 3 * float(jnp.abs(level("torchvision")).max())


def test_the_recipe_names_a_task_with_its_batch():
    from eca_jax.config import load_recipe
    from eca_jax.tasks.task import create_task

    task = create_task(load_recipe("mask_rcnn_shapes"))
    assert task.batch["masks"].shape == (8, 8, 112, 112) and task.batch["image"].shape == (8, 96, 96, 3)
    assert task.name == "mask_rcnn_eca_resnet50_fpn" and task.card.class_names[1] == "circle"
    config = eca_jax.default_config()
    config.task = "detection"
    with pytest.raises(ValueError, match="is no detector"):
        create_task(config)


def test_a_recipe_on_a_canvas_that_is_no_square_has_two_shapes_of_batches():
    """Without data both; with data those that they have."""
    from tiny_detection import Tiny, get_config

    def shapes(both):
        task = Tiny.from_config(get_config())
        source = ShapesSource((64, 96), {"train": 9, "validation": 1}, both=both)
        task = dataclasses.replace(task, open_source=lambda: source)
        before, _ = task.other_batches, task.train_examples
        return [[batch["image"].shape for batch in batches] for batches in ((task.batch,), before, task.other_batches)]

    broad, upright = (3, 64, 96, 3), (3, 96, 64, 3)
    assert shapes(both=True) == [[broad], [upright], [upright]]
    assert shapes(both=False) == [[broad], [upright], []]
