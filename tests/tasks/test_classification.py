"""What a recipe leaves open is the model's own."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
from data_fixtures import WNIDS

import eca_jax
from eca_jax.data import load_source
from eca_jax.data.batch import IMAGE, LABEL, MASK
from eca_jax.models import Preprocessing
from eca_jax.sharding import Shard
from eca_jax.tasks.accuracy import metric_sums
from eca_jax.tasks.classification import Classification
from eca_jax.tasks.task import create_task
from eca_jax.weights.card import Card
from eca_jax.weights.load import Weights


def task(**changes):
    config = eca_jax.default_config()
    config.update(changes)
    return create_task(config)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("eca_resnet50", (224, 256, "bilinear")),
        ("resnet50d", (224, 256, "bicubic")),
        ("eca_nfnet_l0", (224, 248, "bicubic")),
        ("eca_botnext26ts_256", (256, 269, "bicubic")),
    ],
)
def test_images_are_prepared_as_the_model_wants_them(model, expected):
    how = task(model=model).preprocessing
    assert (how.image_size, how.resize_size, how.interpolation) == expected


def test_what_the_recipe_sets_holds():
    how = task(
        model="resnet50d", image_size=160, crop_pct=0.95, interpolation="bilinear", mean=(0.5,) * 3
    ).preprocessing
    assert (how.image_size, how.resize_size, how.interpolation, how.mean) == (160, 168, "bilinear", (0.5, 0.5, 0.5))
    assert how.std == (0.229, 0.224, 0.225)


def test_training_and_evaluation_have_their_own_sizes(folder_dir):
    sizes = {"dataset": "folder", "data_dir": str(folder_dir), "batch_size": 4, "crop_pct": 0.95}
    judged = task(**sizes, image_size=24, eval_image_size=40)
    assert judged.batch[IMAGE].shape == (4, 24, 24, 3)
    assert next(judged.train_batches(0, Shard(0, 1)))[IMAGE].shape == (4, 24, 24, 3)
    assert next(judged.eval_batches("validation", Shard(0, 1)))[IMAGE].shape == (4, 40, 40, 3)
    assert judged.card.preprocessing.image_size == 40  # of the weights that are kept
    # timm's floor, which RSB's A3 is judged by.
    assert task(image_size=160, eval_image_size=224, crop_pct=0.95).preprocessing.resize_size == 235


def test_position_tables_are_made_for_the_images():
    assert task(model="eca_botnext26ts_256").model.image_size == 256
    assert task(model="eca_botnext26ts_256", image_size=288).model.image_size == 288


@pytest.mark.parametrize("model", [*eca_jax.list_models("*nfnet*"), *eca_jax.list_models("nf_*")])
def test_groups_of_batch_statistics_are_nothing_to_a_network_without(model):
    assert task(model=model, bn_group_size=64).model.stage_sizes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_pct": 1.5}, "crop_pct must be above 0 and at most 1"),
        ({"interpolation": "nearest"}, "interpolation must be one of bilinear, bicubic"),
        ({"task": "clasification"}, "unknown task 'clasification': there is classification"),
        ({"task": "nowhere:Task"}, "nowhere:Task cannot be imported"),
    ],
)
def test_what_cannot_be_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        task(**changes)
    assert "\n" not in str(error.value)


def test_weights_are_judged_by_the_names_of_their_classes(folder_dir):
    """The data's labels become those of the weights, whose classes are in another order."""
    model = types.SimpleNamespace(num_classes=5)  # which has no part in this
    card = Card("resnet18", {}, Preprocessing(32), ("other", *reversed(WNIDS)))
    source = load_source("folder", folder_dir)
    task = Classification.of_weights(Weights(card, model, {}), source, 4)

    def labels(task):
        batches = list(task.eval_batches("validation", Shard(0, 1)))
        return np.concatenate([batch[LABEL][batch[MASK] > 0] for batch in batches])

    np.testing.assert_array_equal(labels(task), 4 - labels(dataclasses.replace(task, labels=None)))
    unknown = dataclasses.replace(card, class_names=("cat", "dog", *WNIDS[:3]))
    with pytest.raises(ValueError, match=f"know no class '{WNIDS[3]}'"):
        Classification.of_weights(Weights(unknown, model, {}), source, 4)


@pytest.mark.parametrize("classes", [1, 2, 12])
def test_top_5_counts_of_any_number_of_classes(classes):
    random = np.random.default_rng(classes)
    logits, labels = random.normal(size=(40, classes)).astype(np.float32), random.integers(0, classes, 40)
    ranks = [np.argsort(-row).tolist().index(label) for row, label in zip(logits, labels, strict=True)]
    found = metric_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.zeros(40), jnp.ones(40))
    assert (found["top1"], found["top5"], found["count"]) == (sum(r < 1 for r in ranks), sum(r < 5 for r in ranks), 40)
    assert classes > 5 or found["top5"] == 40
