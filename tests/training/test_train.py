"""`train.py` on real formats with the recipes, and what it says when something is wrong."""

import json
import re
import runpy
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from data_fixtures import TRAIN_PER_CLASS, VALIDATION_EXAMPLES, WNIDS

from eca_jax.sharding import data_mesh
from eca_jax.tasks.task import create_task
from eca_jax.training.loop import train
from eca_jax.training.metrics import read_metrics
from eca_jax.training.program import build
from eca_jax.weights.store import checkpoint_steps, read

RECIPES = {
    **{f"eca_resnet{depth}": (100, 256, 0.1, 30, 0.1, 1e-4, 64) for depth in (18, 34, 50, 101, 152)},
    "eca_mobilenet_v2": (400, 96, 0.045, 1, 0.98, 4e-5, 0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_papers(name):
    config = runpy.run_path(f"configs/{name}.py")["get_config"]()
    schedule, optimizer = config.schedule, config.optimizer
    found = (config.num_epochs, config.batch_size, config.learning_rate, schedule.decay_epochs, schedule.decay_rate)
    assert (*found, optimizer.weight_decay, config.bn_group_size) == RECIPES[name]
    assert (config.model, optimizer.momentum, schedule.name) == (name, 0.9, "step")
    how = create_task(config).preprocessing
    assert (how.image_size, how.resize_size, how.interpolation, create_task(config).model.num_classes) == (
        224,
        256,
        "bilinear",
        1000,
    )
    assert not optimizer.decay_kernels_only and not optimizer.nesterov and not config.label_smoothing


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["imagenet2012", "folder"])
def test_the_resnet18_recipe_trains_on(dataset, run_recipe, request, tmp_path):
    directory = request.getfixturevalue({"imagenet2012": "imagenet_dir", "folder": "folder_dir"}[dataset])
    classes = 1000 if dataset == "imagenet2012" else len(WNIDS)
    arguments = {"dataset": dataset, "data_dir": directory, "num_classes": classes}
    sizes = {"image_size": 96, "batch_size": 8, "num_epochs": 2, "learning_rate": 0.01}
    done = run_recipe("configs/eca_resnet18.py", tmp_path, **arguments, **sizes)
    assert done.returncode == 0, done.stderr
    lines = read_metrics(tmp_path)
    steps = len(WNIDS) * TRAIN_PER_CLASS // 8
    assert VALIDATION_EXAMPLES % 8
    assert [(x["step"], x["count"]) for x in lines if x["split"] == "validation"] == [
        (steps, VALIDATION_EXAMPLES),
        (2 * steps, VALIDATION_EXAMPLES),
    ]
    assert all(np.isfinite(line["loss"]) for line in lines)


@pytest.fixture
def run_recipe(command):
    def run(recipe, workdir, **keys):
        line = command(workdir)
        line["args"] = [sys.executable, "train.py", f"--config={recipe}", f"--workdir={workdir}"]
        line["args"] += [f"--config.{key}={value}" for key, value in keys.items()]
        return subprocess.run(**line, capture_output=True, timeout=500)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=configs/quickstart.py"),
        (["--config=configs/nowhere.py"], "no such config file: configs/nowhere.py"),
        (["--config=configs/quickstart.py"], "--workdir=DIR"),
        (["--config=configs/quickstart.py", "--config.batchsize=3"], "'batchsize': did you mean batch_size?"),
        (["--config=configs/quickstart.py", "--config.weight_decay=1"], "did you mean optimizer.weight_decay"),
        (["--config=configs/quickstart.py", "--config.optimizer.momentun=1"], "did you mean optimizer.momentum?"),
        (["--config=configs/quickstart.py", "--config.batch_size=many"], "batch_size=many"),
        (["--config=configs/quickstart.py", "--workdirs=x"], "'workdirs'"),
        (["--config=configs/quickstart.py", "x"], "unexpected argument 'x'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(command, arguments, message):
    line = command("unused") | {"args": [sys.executable, "train.py", *arguments]}
    done = subprocess.run(**line, capture_output=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_an_error_of_the_run_is_one_line_and_status_2(run, tmp_path):
    done = run(tmp_path, "--config.data_dir=/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such directory: /nowhere/train (expected train/CLASS/*.JPEG, .jpg or .png)\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "eca_resnet17"}, "did you mean eca_resnet18"),
        ({"num_classes": 2}, r"folder has 3 classes: set num_classes=3"),
        ({"batch_size": 49}, "49"),
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"init_from": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_config_that_cannot_run_is_one_line(config, tmp_path, changes, message):
    config.update(changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        train(config, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_workdir_of_another_model_is_left_alone(config, tmp_path):
    config.num_epochs = 1
    train(config, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    config.model = "resnet18"
    with pytest.raises(ValueError, match="model is 'eca_resnet18' there and 'resnet18' here"):
        train(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_truncated_images_are_skipped_and_counted(config, tree, tmp_path, capsys):
    copy = shutil.copytree(tree, tmp_path / "tree")
    for name in ("class0/5.png", "class1/3.png"):  # 4% of 48
        broken = copy / "train" / name
        broken.write_bytes(broken.read_bytes()[:100])
    config.update({"data_dir": str(tmp_path / "tree"), "num_epochs": 2})
    train(config, tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run") if line["split"] == "train"]
    counts = [line["count"] for line in lines]
    assert sum(line["skipped"] for line in lines) == 2 * 2  # once an epoch
    assert sorted(counts[:2]) in ([14, 32], [15, 31], [16, 30])  # 32 + 16 images an epoch, two of them broken
    assert sum(counts) == 2 * 46
    said = [int(count) for count in re.findall(r"(\d+) undecodable images skipped", capsys.readouterr().out)]
    assert sum(said) == 2 * 2


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(config, tmp_path):
    config.update({"learning_rate": 1e20, "checkpoint_every_steps": 1, "ema_decay": 0.0})
    config.schedule.name = "step"
    with pytest.raises(ArithmeticError, match=r"is not finite at step \d+ ") as error:
        train(config, tmp_path)
    step = int(str(error.value).partition("at step ")[2].split()[0])
    kept = checkpoint_steps(tmp_path)[-1]
    assert f"the checkpoint of step {kept} in {tmp_path} is good" in str(error.value)
    assert kept == step - 1  # one was saved after every step before
    for ours in jax.tree.leaves(read(tmp_path, kept).variables["params"]):
        assert np.isfinite(ours).all()


@pytest.mark.slow
def test_a_fine_tuned_model_starts_from_the_weights_given(config, tmp_path, capsys):
    config.num_epochs = 1
    train(config, tmp_path / "first")
    config.update({"init_from": str(tmp_path / "first"), "num_classes": 4, "learning_rate": 0.0, "ema_decay": 0.0})
    train(config, tmp_path / "second")
    assert "new classifier (params/fc/bias, params/fc/kernel) for 4 classes" in capsys.readouterr().out
    first, second = (read(tmp_path / name).variables["params"] for name in ("first", "second"))
    assert first.pop("fc")["kernel"].shape[1] + 1 == second.pop("fc")["kernel"].shape[1]
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.slow
def test_a_profile_is_written_on_request(config, tmp_path):
    config.update({"profile_steps": 2, "num_epochs": 2})
    train(config, tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_program_is_built_from_any_mapping():
    config = runpy.run_path("configs/quickstart.py")["get_config"]()
    config = json.loads(json.dumps(config.to_dict()))
    program = build(create_task(config), config, data_mesh(), steps_per_epoch=22)
    assert program.batch["image"].shape == (32, 24, 24, 3)
