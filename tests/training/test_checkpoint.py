"""Weights and states come back as they were saved, or not at all, with one line that says why."""

import dataclasses
import gc
import json
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eca_jax.sharding import data_mesh
from eca_jax.tasks.task import create_task
from eca_jax.training.checkpoints import Checkpoints
from eca_jax.training.loop import evaluate_best
from eca_jax.training.program import build
from eca_jax.training.workdir import claim_workdir
from eca_jax.weights import store


@pytest.fixture(scope="module")
def program(tiny):
    return program_of(tiny())


def program_of(config):
    return build(create_task(config), config, data_mesh(), steps_per_epoch=6)


@pytest.fixture(scope="module")
def fresh(program):
    return program.init()


@pytest.fixture(scope="module")
def saved(tiny, fresh, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("workdir")
    claim_workdir(workdir, tiny(), create_task(tiny()).card)
    checkpoints = Checkpoints(workdir)
    for step in (3, 5):
        checkpoints.save(at(fresh, step), {"window": {"loss": step / 7}}, best_step=None)
    checkpoints.close()
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    """A workdir with checkpoints of steps 3 and 5."""
    return shutil.copytree(saved, tmp_path / "workdir")


def at(state, step):
    """A state whose every number tells its step."""
    return jax.tree.map(lambda leaf: leaf + step, state).replace(step=jnp.int32(step))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_state_comes_back_whole(program, workdir, fresh):
    state, progress = Checkpoints(workdir).restore(program.state, 5)
    assert_equal(state, at(fresh, 5))
    assert progress == {"window": {"loss": 5 / 7}}


def test_a_save_is_of_the_state_as_it_was(config, program, tmp_path, fresh):
    """The write goes on in the background while the next step takes over the state's buffers."""
    checkpoints = Checkpoints(tmp_path)
    state = at(fresh, 1)
    expected = jax.tree.map(np.array, state)
    batch = {
        "image": np.zeros((8, 16, 16, 3), np.uint8),
        "label": np.zeros(8, np.int32),
        "mask": np.ones(8, np.float32),
    }
    checkpoints.save(state, {}, best_step=None)
    for _ in range(3):
        state, _ = program.train_step(state, batch)
    checkpoints.wait()
    assert_equal(checkpoints.restore(program.state, 1)[0], expected)


def test_a_checkpoint_that_a_kill_left_half_written_does_not_count(workdir):
    (workdir / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    assert store.checkpoint_steps(workdir) == [3, 5]
    assert Checkpoints(workdir).latest_step() == 5
    assert store.read(workdir).step == 5


def test_weights_of_a_workdir(workdir, fresh):
    for step, ema in ((3, True), (5, False)):
        found = store.read(workdir, step, ema=ema)
        state = at(fresh, step)
        assert_equal(found.variables, state.ema if ema else state.variables)
        assert (found.card.model, found.step, found.averaged) == ("eca_resnet18", step, ema)
    with pytest.raises(ValueError, match="no checkpoint of step 4; it has 3, 5") as error:
        store.read(workdir, 4)
    one_line(error)


def test_the_best_step_is_of_the_highest_metric_that_is_still_there(workdir):
    checkpoints = Checkpoints(workdir)
    for step, raw, averaged in ((3, 0.7, 0.8), (5, 0.9, 0.75)):
        lines = {"validation": {"step": step, "top1": raw}, "validation_ema": {"step": step, "top1": averaged}}
        checkpoints.record(step, lines)
    checkpoints.close()
    assert store.best_step(workdir, "top1") == store.read(workdir).step == 3
    shutil.rmtree(workdir / "checkpoints" / "3")
    assert store.read(workdir).step == 5


def test_of_equal_metrics_the_lower_loss_is_the_best(workdir):
    checkpoints = Checkpoints(workdir)
    for step, loss in ((3, 1.03), (5, 0.73)):
        checkpoints.record(step, {"validation": {"step": step, "top1": 0.9, "loss": loss}})
    checkpoints.close()
    assert store.best_step(workdir, "top1") == 5


def test_a_damaged_record_is_named(workdir):
    (workdir / "checkpoints" / "5" / "evaluation.json").write_text('{"validation": {"top')
    with pytest.raises(ValueError, match=r"checkpoints/5/evaluation.json is damaged") as error:
        store.read(workdir)
    one_line(error)


def test_another_model_is_named_by_its_first_difference(config, workdir):
    config.num_classes = 5
    with pytest.raises(ValueError, match=r"num_classes is 3 there and 5 here") as error:
        claim_workdir(workdir, config, create_task(config).card)
    one_line(error)
    other = program_of(config)
    with pytest.raises(ValueError, match=r"params/fc/bias is float32\[3\], this model needs float32\[5\]") as error:
        Checkpoints(workdir).restore(other.state, 5)
    one_line(error)


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "removed", "no metadata"])
def test_damage_is_an_error_that_names_the_checkpoint(program, workdir, damage, monkeypatch):
    store.orbax.cache_clear()
    unraisable = []  # as what was still being read ends, which Python would print
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    directory = workdir / "checkpoints" / "5"
    largest = max(
        (path for path in (directory / "variables").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = largest.read_bytes()
    if damage == "truncated":
        largest.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        largest.write_bytes(bytes(len(content)))
    elif damage == "removed":
        largest.unlink()
    else:
        (directory / "variables" / "_METADATA").write_text("{")
    with pytest.raises(ValueError, match=r"checkpoints/5.* is damaged") as error:
        Checkpoints(workdir).restore(program.state, 5)
    one_line(error)
    with pytest.raises(ValueError, match=r"checkpoints/5.* is damaged"):
        store.read(workdir, 5, ema=False)
    store.read(workdir, 3)
    gc.collect()
    assert not unraisable


def test_a_weights_directory_returns_what_it_was_given(tmp_path, config, fresh):
    variables = jax.tree.map(np.asarray, fresh.variables)
    card = dataclasses.replace(create_task(config).card, class_names=("a", "b", "c"))
    path = tmp_path / "weights"
    for _ in range(2):  # the second replaces the first
        store.save_directory(path, variables, card, {"beside": 1})
        found = store.read(path)
        assert_equal(found.variables, variables)
        assert (found.card, found.content["beside"]) == (card, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


def test_a_weights_directory_replaces_nothing_else(tmp_path, config, fresh):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(ValueError, match="not a weights directory"):
        store.save_directory(tmp_path, fresh.variables, create_task(config).card)


def test_a_card_holds_no_module_of_ones_own(tmp_path, config, fresh):
    card = create_task(config).card
    card = dataclasses.replace(card, options={**card.options, "attention": nn.Dense})
    with pytest.raises(ValueError, match=r"attention=.* cannot be stored") as error:
        store.save_directory(tmp_path / "weights", fresh.variables, card)
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_no_weights_are_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a workdir nor a weights directory"):
        store.read(tmp_path / "nothing")


def test_weights_start_a_model_with_other_classes(config, workdir, fresh):
    config.update({"init_from": str(workdir), "num_classes": 5})
    other = program_of(config)
    new = other.init()
    found, message = other.task.warm_start(new.variables)
    assert "new classifier" in message and "5 classes" in message
    source = at(fresh, 5).ema
    assert_equal(found["params"].pop("fc"), new.params["fc"])
    assert_equal(found["params"], {name: leaf for name, leaf in source["params"].items() if name != "fc"})
    assert_equal(found["batch_stats"], source["batch_stats"])


def test_weights_start_the_same_model_with_its_classifier(config, workdir, fresh):
    config.init_from = str(workdir)
    found, message = create_task(config).warm_start(fresh.variables)
    assert "classifier" not in message
    assert_equal(found["params"], at(fresh, 5).ema["params"])


def test_weights_of_another_model_start_nothing(config, workdir):
    config.init_from = str(workdir)
    config.model = "resnet18"
    other = program_of(config)
    with pytest.raises(ValueError, match=r"holds another model.*eca/conv/kernel") as error:
        other.task.warm_start(other.init().variables)
    one_line(error)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 1, "seed is 0 there and 1 here"),
        ("image_size", 24, "image_size is 16 there and 24 here"),
        ("bn_group_size", 4, "bn_group_size is 0 there and 4 here"),
        ("schedule", {"name": "step"}, "schedule.name is 'cosine' there and 'step' here"),
        ("optimizer", {"momentum": 0.5}, "optimizer.momentum is 0.9 there and 0.5 here"),
    ],
)
def test_a_run_goes_on_with_its_own_recipe_only(config, workdir, key, value, message):
    config.update({key: value})
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        claim_workdir(workdir, config, create_task(config).card)
    one_line(error)


def test_what_may_differ_is_said(config, workdir, tree):
    config.update({"num_epochs": 9, "log_every_steps": 1})
    card = create_task(config).card
    assert claim_workdir(workdir, config, card) == [
        "log_every_steps was 4 and is 1 now",
        "num_epochs was 4 and is 9 now",
    ]


def test_what_a_workdir_is_older_than_is_at_its_default(config, workdir):
    path = workdir / "config.json"
    meta = json.loads(path.read_text())
    del meta["config"]["mix"]["off_epoch"], meta["config"]["erase"]
    path.write_text(json.dumps(meta))
    card = create_task(config).card
    with pytest.raises(ValueError, match=r"mix.off_epoch is 0 there and 3 here"):
        claim_workdir(workdir, {**config, "mix": {**config.mix, "off_epoch": 3}}, card)
    assert claim_workdir(workdir, config, card) == [
        "it was begun before there was erase, mix.off_epoch: at the default"
    ]
    assert not claim_workdir(workdir, config, card)  # it has them now


def test_a_run_goes_on_with_its_own_data_only(config, workdir):
    card = create_task(config).card
    claim_workdir(workdir, config, card, 48)
    with pytest.raises(ValueError, match="had 48 training examples there and 47 here"):
        claim_workdir(workdir, config, card, 47)
    other = dataclasses.replace(card, class_names=("class0", "dog", "zebra"))
    with pytest.raises(ValueError, match=r"its classes are \.\.\., class1, class2, here \.\.\., dog, zebra") as error:
        claim_workdir(workdir, config, other, 48)
    one_line(error)


def test_a_run_is_evaluated_on_its_own_classes_only(config, workdir, tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "tree")
    for split in ("train", "val"):
        (root / split / "class0").rename(root / split / "zebra")  # as many, in another order
    config.data_dir = str(root)
    with pytest.raises(ValueError, match=r"its classes are class0, class1, class2, here class1, class2, zebra"):
        evaluate_best(config, workdir)
