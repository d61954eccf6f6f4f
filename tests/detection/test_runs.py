"""Detection as runs: killed and gone on with, and by three processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict
from tiny_detection import VALIDATION

from eca_jax.training.metrics import TIMINGS, read_metrics
from eca_jax.weights.store import checkpoint_steps, read

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STEPS = 6


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(workdir, *arguments, wait=0)` -> a process of a training of the tiny recipe."""
    cache, started = tmp_path_factory.mktemp("cache"), []

    def run(workdir, *arguments, wait=0):
        recipe = Path(__file__).with_name("tiny_detection.py")
        line = [sys.executable, "train.py", f"--config={recipe}", f"--workdir={workdir}", *arguments]
        cached = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "SECONDS_A_BATCH": str(wait), **cached}
        process = subprocess.Popen(
            line, env=environment, cwd=ROOT, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    process = start(workdir)
    said = process.communicate(timeout=300)[0].splitlines()
    compiled = [i for i, line in enumerate(said) if "train step" in line and "compiled in" in line]
    first = next(i for i, line in enumerate(said) if "step 1 " in line)
    # Both orientations before the first step, and neither again.
    assert len(compiled) == 2 and max(compiled) < first and "image [3, 96, 64, 3]" in said[compiled[1]]
    return workdir


def ends(*processes):
    """Waits for processes that end well; what they say of a step's metrics."""
    lines = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        lines += [line for line in output.splitlines() if line.startswith("step ")]
    return lines


def recorded(workdir):
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_metrics(workdir)]


def killed(process, reached):
    deadline = time.monotonic() + 300
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()


def weights(workdir):
    return {path: value.tobytes() for path, value in flatten_dict(read(workdir, STEPS).variables).items()}


def test_a_kill_in_training_and_one_in_evaluation_leave_no_trace(start, whole, tmp_path):
    killed(start(tmp_path), lambda: len(read_metrics(tmp_path)) >= 2)

    def evaluating():
        return 3 in checkpoint_steps(tmp_path) and read_metrics(tmp_path)[-1]["step"] == 3

    killed(start(tmp_path, wait=2), evaluating)
    assert [(line["step"], line["split"]) for line in read_metrics(tmp_path)][-1] == (3, "train")
    ends(start(tmp_path))
    assert recorded(tmp_path) == recorded(whole)
    assert weights(tmp_path) == weights(whole)


def test_three_processes_count_each_image_once(start, whole):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        flags = (f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--num_processes=3")
    alone = ends(start(whole, "--eval_only"))
    together = ends(*(start(whole, "--eval_only", *flags, f"--process_id={rank}") for rank in range(3)))
    assert len(alone) == 1 and f"on {VALIDATION} images" in alone[0]
    assert together == alone  # process 0 alone speaks
