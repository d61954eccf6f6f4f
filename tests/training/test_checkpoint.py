"""Weights and states come back as they were saved, or not at all, with one line that says why."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eca_jax.sharding import data_mesh
from eca_jax.training import checkpoints as checkpoint
from eca_jax.training.program import build
from eca_jax.training.warm_start import initial_variables


@pytest.fixture(scope="module")
def program(tiny):
    return build(tiny(), data_mesh(), steps_per_epoch=6)


@pytest.fixture(scope="module")
def fresh(program):
    return program.init()


@pytest.fixture(scope="module")
def saved(tiny, fresh, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("workdir")
    checkpoint.claim_workdir(workdir, tiny())
    checkpoints = checkpoint.Checkpoints(workdir)
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
    state, progress = checkpoint.Checkpoints(workdir).restore(program.state, 5)
    assert_equal(state, at(fresh, 5))
    assert progress == {"window": {"loss": 5 / 7}}


def test_a_save_is_of_the_state_as_it_was(config, program, tmp_path, fresh):
    """The write goes on in the background while the next step takes over the state's buffers."""
    checkpoints = checkpoint.Checkpoints(tmp_path)
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
    assert checkpoint.checkpoint_steps(workdir) == [3, 5]
    assert checkpoint.Checkpoints(workdir).latest_step() == 5
    assert checkpoint.load_variables(workdir)[1]["step"] == 5


def test_weights_of_a_workdir(workdir, fresh):
    for step, ema in ((3, True), (5, False)):
        variables, meta = checkpoint.load_variables(workdir, step, ema=ema)
        state = at(fresh, step)
        assert_equal(variables, state.ema if ema else state.variables)
        assert (meta["model"], meta["step"]) == ("eca_resnet18", step)
    with pytest.raises(ValueError, match="no checkpoint of step 4; it has 3, 5") as error:
        checkpoint.load_variables(workdir, 4)
    one_line(error)


def test_the_best_step_is_of_the_highest_top1_that_is_still_there(workdir):
    lines = [{"step": s, "split": "validation", "top1": t} for s, t in ((1, 0.9), (3, 0.8), (5, 0.7))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "spl')
    assert checkpoint.best_step(workdir) == 3


def test_another_model_is_named_by_its_first_difference(config, workdir):
    config.num_classes = 5
    with pytest.raises(ValueError, match=r"num_classes is 3 there and 5 here") as error:
        checkpoint.claim_workdir(workdir, config)
    one_line(error)
    other = build(config, data_mesh(), steps_per_epoch=6)
    with pytest.raises(ValueError, match=r"params/fc/bias is float32\[3\], this model needs float32\[5\]") as error:
        checkpoint.Checkpoints(workdir).restore(other.state, 5)
    one_line(error)


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "removed", "no metadata"])
def test_damage_is_an_error_that_names_the_checkpoint(program, workdir, damage):
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
        checkpoint.Checkpoints(workdir).restore(program.state, 5)
    one_line(error)
    with pytest.raises(ValueError, match=r"checkpoints/5.* is damaged"):
        checkpoint.load_variables(workdir, 5, ema=False)
    checkpoint.load_variables(workdir, 3)


def test_a_weights_directory_returns_what_it_was_given(tmp_path, fresh):
    variables = jax.tree.map(np.asarray, fresh.variables)
    meta = {"model": "eca_resnet18", "num_classes": 3, "overrides": {"small_images": True}}
    path = tmp_path / "weights"
    for _ in range(2):  # the second replaces the first
        checkpoint.save_variables(path, variables, meta)
        found, found_meta = checkpoint.load_variables(path)
        assert_equal(found, variables)
        assert found_meta == meta
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


def test_a_weights_directory_replaces_nothing_else(tmp_path, fresh):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(ValueError, match="not a weights directory"):
        checkpoint.save_variables(tmp_path, fresh.variables, {})


def test_no_weights_are_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a workdir nor a weights directory"):
        checkpoint.load_variables(tmp_path / "nothing")


def test_weights_start_a_model_with_other_classes(config, workdir, fresh):
    config.update({"init_from": str(workdir), "num_classes": 5})
    other = build(config, data_mesh(), steps_per_epoch=6)
    new = other.init()
    fields, message = initial_variables(config, other, new)
    assert "new classifier" in message and "5 classes" in message
    source = at(fresh, 5).ema
    assert_equal(fields["params"].pop("fc"), new.params["fc"])
    assert_equal(fields["params"], {name: leaf for name, leaf in source["params"].items() if name != "fc"})
    assert_equal(fields["batch_stats"], source["batch_stats"])
    assert_equal(fields["ema"]["batch_stats"], source["batch_stats"])


def test_weights_start_the_same_model_with_its_classifier(config, program, workdir, fresh):
    config.init_from = str(workdir)
    fields, message = initial_variables(config, program, fresh)
    assert "classifier" not in message
    assert_equal(fields["params"], at(fresh, 5).ema["params"])


def test_weights_of_another_model_start_nothing(config, workdir):
    config.init_from = str(workdir)
    config.model = "resnet18"
    other = build(config, data_mesh(), steps_per_epoch=6)
    with pytest.raises(ValueError, match=r"holds another model.*eca/conv/kernel") as error:
        initial_variables(config, other, other.init())
    one_line(error)
