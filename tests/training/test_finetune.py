"""`eca-jax train finetune` and what it needs of the loop."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from eca_jax.commands import train as command
from eca_jax.tasks.task import create_task
from eca_jax.training.loop import train
from eca_jax.training.metrics import best_evaluation, read_metrics
from eca_jax.training.optimizer import make_optimizer
from eca_jax.weights.store import checkpoint_steps, read


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of 12 pictures, a directory each."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for label in range(3):
        (root / f"class{label}").mkdir()
        for number in range(12):
            pixels = random.integers(0, 160, (20, 16, 3))
            pixels[..., label] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"class{label}" / f"{number}.png")
    return root


def recipe(*arguments):
    return command.parse(["train", "finetune", "--workdir=unused", *map(str, arguments)])[1]


def test_the_model_and_its_options_are_those_of_the_weights(photos, weights):
    task = create_task(recipe(f"--data_dir={photos}", f"--init_from={weights}"))
    assert (task.name, task.model.num_classes, task.preprocessing.image_size) == ("eca_resnet18", 3, 16)
    assert task.model.stage_sizes == (1, 1, 0, 0) and task.model.small_images
    found, message = task.warm_start(task.init(jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, found["params"], dict(read(weights).variables["params"]))
    assert str(weights) in message


def test_a_folder_becomes_a_model_of_its_own_classes(photos, weights, tmp_path, capsys):
    """By what the command does but for its child process: two of the three classes that the weights know."""
    for name in ("class0", "class1"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).symlink_to(photos / name)
    arguments = [f"--data_dir={tmp_path / 'photos'}", f"--init_from={weights}", f"--workdir={tmp_path / 'run'}"]
    arguments += ["--config.num_epochs=8", "--config.batch_size=8", "--config.compilation_cache="]
    assert command._train(*command.parse(["train", "finetune", *arguments])) == 0
    said = capsys.readouterr().out
    for words in (
        "2 classes, ",
        "images a class: class0 12, class1 12",
        f"weights from {weights}; new classifier (params/fc/bias, params/fc/kernel) for 2 classes",
        f"report       {tmp_path / 'run' / 'report' / 'index.html'}",
        f"evaluate --weights {tmp_path / 'run'} --data folder --data_dir {tmp_path / 'photos'}",
    ):
        assert words in said
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["top1"] >= 0.9 and [each["class"] for each in report["classes"]] == ["class0", "class1"]
    before, after = (read(path).variables["params"]["conv1"]["kernel"] for path in (weights, tmp_path / "run"))
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()  # the body learns, and slowly
    assert command._train(*command.parse(["train", "finetune", *arguments])) == 0
    said = capsys.readouterr().out
    assert "all is done already" in said and "compiled" not in said


def test_weights_that_do_not_fit_are_refused_before_anything_is_compiled(config, weights, tmp_path, monkeypatch):
    config.update({"model": "eca_mobilenet_v2", "init_from": str(weights)})
    config.model_overrides.stage_sizes = None
    monkeypatch.setattr("eca_jax.training.program.kernels.jit", lambda *_, **__: lambda *_: pytest.fail("compiled"))
    with pytest.raises(ValueError, match="holds another model"):
        train(config, tmp_path / "run")


def test_without_weights_it_says_what_to_expect(photos):
    config = recipe(f"--data_dir={photos}")
    task = create_task(config)
    assert (task.name, task.model.num_classes, task.preprocessing.image_size) == ("eca_resnet18", 3, 96)
    assert task.found()[0].startswith("3 classes, ")
    assert task.found()[-1].startswith("no weights to start from (init_from): ")
    assert "num_classes=5, but there are 3" in task.found(5)[-2]


def test_a_recipe_with_neither_model_nor_weights_is_one_line(photos):
    config = recipe(f"--data_dir={photos}", "--init_from=x")
    config.init_from = ""
    with pytest.raises(ValueError, match=r"^the recipe has no model: set model, or init_from"):
        create_task(config)


def test_the_classifier_learns_faster():
    params = {"conv1": {"kernel": np.ones(2, np.float32)}, "fc": {"kernel": np.ones(2, np.float32)}}
    rates = recipe("--init_from=x").optimizer.rates
    optimizer = make_optimizer(lambda step: 0.1, momentum=0.0, rates=rates)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["conv1"]["kernel"], -0.1)
    np.testing.assert_allclose(updates["fc"]["kernel"], -1.0)


def test_equal_accuracies_are_told_apart_by_the_loss():
    lines = [
        {"step": step, "split": "validation", "top1": top1, "loss": loss}
        for step, top1, loss in ((1, 0.5, 0.2), (2, 0.9, 1.03), (3, 0.9, 0.73), (4, 0.9, 0.73))
    ]
    assert best_evaluation(lines, "top1")["step"] == 3


@pytest.mark.slow
def test_a_run_that_gets_no_better_ends_and_stays_ended(config, tmp_path, capsys):
    config.update({"num_epochs": 30, "patience": 2, "learning_rate": 0.0, "ema_decay": 0.0})
    best = train(config, tmp_path)
    epoch = round(best["epoch"])  # BatchNorm's statistics still move the loss
    assert epoch < 28 and checkpoint_steps(tmp_path)[-1] == 6 * (epoch + 2)
    assert f"no better than after epoch {epoch} for 2 epochs (patience)" in capsys.readouterr().out
    assert train(config, tmp_path) == best
    said = capsys.readouterr().out
    assert f"all is done already, up to epoch {epoch + 2}" in said and "compiled" not in said


@pytest.mark.slow
def test_a_loss_that_explodes_gets_one_line_of_advice(config, tmp_path, capsys):
    config.update({"num_epochs": 1, "learning_rate": 30.0, "ema_decay": 0.0, "log_every_steps": 1})
    config.schedule.name = "step"
    train(config, tmp_path)
    said = capsys.readouterr().out
    assert said.count("the loss has grown to ") == 1 and "a learning_rate below 30 may help" in said


def test_an_epoch_without_an_image_is_an_error_and_skipped_ones_are_counted(config, tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "tree")
    for file in (root / "train").rglob("*.png"):
        file.write_bytes(b"no picture")
    config.update({"data_dir": str(root), "checkpoint_every_steps": 0, "ema_decay": 0.0})
    with pytest.raises(ValueError, match="no image of the epoch before step 6 could be decoded"):
        train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["count"], line["skipped"]) for line in lines] == [(0, 32), (0, 16)]
    assert read_metrics(tmp_path / "run") == lines


def test_damaged_lines_of_metrics_are_named_and_the_others_read(tmp_path, caplog):
    lines = [{"step": step, "epoch": step / 2, "split": "train", "loss": 0.5} for step in (1, 2, 3)]
    first, second, third = (json.dumps(line).encode() + b"\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_bytes(
        first + b"\n" + b"\0" * 64 + b"\n" + second + b'{"step": 7}\n\xff\n[]\n' + third + first[:9]
    )
    assert read_metrics(tmp_path) == lines
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'metrics.jsonl'}, line {number}, is damaged and left out" for number in (3, 5, 6, 7)
    ]
