"""A run that is killed or stopped and started again is the same run, bit for bit."""

import json
import random
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from eca_jax.commands.main import main
from eca_jax.training.loop import train
from eca_jax.training.metrics import TIMINGS, read_metrics
from eca_jax.training.runtime.supervise import RESUME
from eca_jax.weights import store
from eca_jax.weights.store import checkpoint_steps, read

pytestmark = pytest.mark.slow
STEPS = 24  # of the tiny recipe: 4 epochs of 6


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The workdir of an uninterrupted run, and what it printed."""
    workdir = tmp_path_factory.mktemp("whole")
    finished = run(workdir)
    assert finished.returncode == 0, finished.stderr
    return workdir, finished.stdout


def best_step(workdir):
    return store.best_step(workdir, "top1")


def recorded(workdir):
    """metrics.jsonl without the one thing that is a measurement of the machine."""
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_metrics(workdir)]


def assert_same_run(workdir, whole):
    assert recorded(workdir) == recorded(whole)
    assert best_step(workdir) == best_step(whole)
    for ema in (False, True):
        ours, theirs = (read(w, STEPS, ema=ema).variables for w in (workdir, whole))
        assert flat_bytes(ours) == flat_bytes(theirs)


def flat_bytes(tree, prefix=""):
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items() for k, v in flat_bytes(sub, f"{prefix}/{name}").items()}
    return {prefix: np.asarray(tree).tobytes()}


def interrupt(line, workdir, number, lines):
    """Starts a command and sends it a signal once metrics.jsonl has that many lines; returns exit status and output."""
    process = subprocess.Popen(**line, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while len(read_metrics(workdir)) < lines and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, output


def test_stopped_by_ctrl_c_it_loses_no_step(command, run, whole, tmp_path):
    """Ctrl-C reaches the process that trains as a SIGTERM.

    The steps in flight then end within a window of metrics, whose sums have to survive.
    """
    lines = random.SystemRandom().randint(1, 12)
    print(f"stopped after {lines} lines of metrics")
    status, output = interrupt(command(tmp_path), tmp_path, signal.SIGINT, lines)
    assert status == RESUME
    assert "interrupted" in output
    done = checkpoint_steps(tmp_path)[-1]
    assert done >= max(line["step"] for line in read_metrics(tmp_path))
    resumed = run(tmp_path)
    assert f"resumed from step {done} " in resumed.stdout, resumed.stderr
    assert_same_run(tmp_path, whole[0])


def test_the_record_of_a_run(whole):
    workdir, output = whole
    lines = read_metrics(workdir)
    assert [(line["step"], line["split"]) for line in lines[:4]] == [
        (4, "train"), (6, "train"), (6, "validation"), (6, "validation_ema"),
    ]  # fmt: skip
    fields = {"step", "epoch", "split", "loss", "top1", "top5", "count", "skipped", "learning_rate", "gradient_norm"}
    assert set(lines[0]) == fields | {"images_per_second", "input_wait"}
    assert set(lines[1]) == set(lines[0]) | {"epoch_seconds"}  # the last of an epoch
    assert all(0 <= line["input_wait"] <= 1 and line["gradient_norm"] > 0 for line in lines if line["split"] == "train")
    assert [line["count"] for line in lines[:4]] == [32, 16, 15, 15]
    assert lines[-1]["epoch"] == 4
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").glob("events*"))
    for words in ("checkpoints", "curves.png", "tensorboard --logdir", "python -m eca_jax evaluate"):
        assert words in output


def test_the_commands_that_it_prints_next_work_as_they_stand(whole, tree, capsys):
    _, output = whole
    for line in output.partition("next:\n")[2].splitlines():
        python, flag, module, *arguments = shlex.split(line.replace("IMAGE...", str(tree / "val" / "class1" / "0.png")))
        assert (flag, module) == ("-m", "eca_jax") and shutil.which(python)
        assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "on 15 images of folder" in said and "class1" in said


def test_the_last_and_the_best_checkpoints_stay(whole):
    workdir, _ = whole
    steps = checkpoint_steps(workdir)
    assert steps[-2:] == [20, 24]
    lines = [line for line in read_metrics(workdir) if line["split"] == "validation_ema"]

    def best(lines):
        return max(lines, key=lambda line: (line["top1"], -line["loss"], -line["step"]))["step"]

    assert best_step(workdir) == best(lines)
    # What was the best when the last checkpoint was saved, which is judged after it.
    assert set(steps) == {20, 24, best(lines[:-1])}


def test_a_finished_run_has_nothing_left_to_do(config, whole, capsys):
    workdir, output = whole
    before = recorded(workdir)
    train(config, workdir)
    assert recorded(workdir) == before
    best = "best: validation"
    assert capsys.readouterr().out.partition(best)[2].partition("\n")[0] == output.partition(best)[2].partition("\n")[0]


def test_eval_only_reproduces_the_best_evaluation(run, whole):
    workdir, _ = whole
    evaluated = run(workdir, "--eval_only", "--config.batch_size=4")
    step = best_step(workdir)
    line = next(x for x in read_metrics(workdir) if x["step"] == step and x["split"] == "validation_ema")
    assert f"step {step}: validation top-1 {line['top1']:.2%}" in evaluated.stdout, evaluated.stderr
    assert f"loss {line['loss']:.4f} on 15 images" in evaluated.stdout


def test_config_json_says_what_rebuilds_the_model(whole):
    workdir, _ = whole
    meta = json.loads((workdir / "config.json").read_text())
    assert meta["class_names"] == sorted(meta["class_names"])
    assert len(meta["class_names"]) == meta["num_classes"]
    assert meta["model"] == "eca_resnet18"
    assert meta["num_classes"] == 3
    assert meta["overrides"] == {"small_images": True, "stage_sizes": [1, 1, 0, 0]}
    assert meta["preprocessing"]["image_size"] == 16
    mean, deviation = meta["brightness"]  # noise from 0 to 159, and 60 more of one channel in three
    assert 95 < mean < 105 and deviation < 5


def test_a_network_without_batch_statistics_goes_on(config, tmp_path):
    config.update({"model": "nf_ecaresnet26", "ema_decay": 0.0, "checkpoint_every_steps": 0})
    config.model_overrides.update({"stage_sizes": (1, 0, 0, 0), "small_images": None})
    config.schedule.name = "step"
    for workdir, epochs in (("cut", 1), ("cut", 2), ("whole", 2)):
        config.num_epochs = epochs
        train(config, tmp_path / workdir)
    assert recorded(tmp_path / "cut") == recorded(tmp_path / "whole")
    cut, whole = (read(tmp_path / workdir, 12).variables for workdir in ("cut", "whole"))
    assert not cut.get("batch_stats") and flat_bytes(cut) == flat_bytes(whole)


@pytest.mark.parametrize("name", ["lamb", "lars", "adamw"])
def test_a_run_of_another_optimizer_goes_on(config, tmp_path, name):
    config.update({"checkpoint_every_steps": 0, "learning_rate": 5e-3, "ema_warmup": "timm"})
    config.update({"mix": {"mixup": 0.1, "cutmix": 1.0}, "loss": {"name": "binary"}})
    config.optimizer.update({"name": name, "decay_kernels_only": True, "layer_decay": 0.9})
    config.schedule.name = "step"
    for workdir, epochs in (("cut", 1), ("cut", 2), ("whole", 2)):
        config.num_epochs = epochs
        train(config, tmp_path / workdir)
    assert recorded(tmp_path / "cut") == recorded(tmp_path / "whole")
    for ema in (False, True):
        cut, whole = (read(tmp_path / workdir, 12, ema=ema).variables for workdir in ("cut", "whole"))
        assert flat_bytes(cut) == flat_bytes(whole)
    cut, whole = (store.read_optimizer(tmp_path / workdir, 12) for workdir in ("cut", "whole"))
    assert flat_bytes(cut) == flat_bytes(whole)
