"""A task that the package does not know trains, is judged, stopped, killed, resumed and planned like any other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from eca_jax.training.metrics import TIMINGS, read_metrics
from eca_jax.weights import store

pytestmark = pytest.mark.slow
RECIPE = Path(__file__).with_name("regression.py")


def train(workdir, *arguments, **options):
    line = [sys.executable, "-m", "eca_jax", "train", RECIPE, f"--workdir={workdir}", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, finished(train(workdir))


def recorded(workdir):
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_metrics(workdir)]


def test_it_trains_and_is_judged_by_its_own_metric(whole):
    workdir, output = whole
    lines = [line for line in read_metrics(workdir) if line["split"] == "validation_ema"]
    assert [line["count"] for line in lines] == [360] * 8
    assert lines[-1]["r2"] > 0.5
    assert store.read(workdir).step == store.best_step(workdir, "r2") == max(lines, key=lambda line: line["r2"])["step"]
    assert f"best: validation (averaged weights) loss {lines[-1]['loss']:.3f}, r2" in output
    assert (workdir / "curves.png").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_on_bit_for_bit(whole, tmp_path, number):
    process = train(tmp_path, start_new_session=True)
    deadline = time.monotonic() + 200
    while len(read_metrics(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
    process.communicate(timeout=200)
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    assert "resumed from step" in finished(train(tmp_path)) or number == signal.SIGKILL
    assert recorded(tmp_path) == recorded(whole[0])
    ours, theirs = (store.read(workdir, 352).variables for workdir in (tmp_path, whole[0]))
    kernels = [tree["params"]["Dense_0"]["kernel"] for tree in (ours, theirs)]
    np.testing.assert_array_equal(*kernels)


def test_it_is_evaluated_and_planned(whole):
    workdir, _ = whole
    line = next(x for x in read_metrics(workdir) if x["step"] == store.best_step(workdir, "r2") and "ema" in x["split"])
    assert f"r2 {line['r2']:.3f}" in finished(train(workdir, "--eval_only"))
    plan = json.loads(finished(train(workdir, "--dry_run=v5e:2x2", "--json")))
    assert (plan["model"], plan["num_examples"]) == ("digits as numbers", 1437)
    assert plan["parameters"] == 64 * 32 + 32 + 32 + 1
    assert plan["estimated_cycles"] > 0
