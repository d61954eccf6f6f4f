"""Two processes with two devices each train as one process with four does, and end together whatever happens."""

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eca_jax.training.metrics import read_metrics
from eca_jax.training.runtime import distributed
from eca_jax.training.runtime.supervise import BAD_INPUT, FAILED, RESUME
from eca_jax.weights.store import checkpoint_steps, read

pytestmark = pytest.mark.slow

# The learning rate is small, so that what rounding changes in one step is not amplified by those after it.
OFTEN = (
    "--config.num_epochs=20", "--config.eval_every_epochs=2", "--config.checkpoint_every_steps=15",
    "--config.log_every_steps=1", "--config.ema_decay=0", "--config.learning_rate=0.001",
)  # fmt: skip
STEPS = 120


@pytest.fixture(scope="module")
def on(command):
    """`on(devices, workdir, *arguments)` -> the command line of a training on so many fake devices."""

    def make(devices, workdir, *arguments):
        line = command(workdir, *arguments)
        line["env"] |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        return line

    return make


@pytest.fixture(scope="module")
def pair(on):
    """`pair(workdir, *arguments)` -> two processes of one run; `own` are arguments of the second alone."""
    started = []

    def start(workdir, *arguments, own=()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            flags = (f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--num_processes=2")
        for rank in range(2):
            line = on(2, workdir, *flags, f"--process_id={rank}", *arguments, *(own if rank else ()))
            started.append(subprocess.Popen(**line, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-2:]

    yield start
    for process in started:
        process.kill()


def ends(process, timeout=300):
    """Exit status, standard output, standard error."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def after_lines(workdir, count, process):
    """Waits until metrics.jsonl has so many lines."""
    deadline = time.monotonic() + 300
    while len(read_metrics(workdir)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None


def parameters(workdir, step=STEPS):
    leaves = read(workdir, step).variables["params"]
    return {f"{a}/{b}": np.asarray(leaf) for a, layer in leaves.items() for b, leaf in flat(layer)}


def flat(tree, prefix=""):
    for name, value in tree.items():
        yield from flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]


def test_two_processes_train_as_one(on, pair, tmp_path):
    """11 steps on the digits; neither the batch nor the processes divide the 360 images of the evaluation."""
    digits = (
        "--config.dataset=digits", f"--config.data_dir={tmp_path / 'data'}", "--config.num_classes=10",
        "--config.batch_size=128", "--config.bn_group_size=32", "--config.num_epochs=1", "--config.log_every_steps=1",
        "--config.ema_decay=0", "--config.report=True",
    )  # fmt: skip
    done = subprocess.run(**on(4, tmp_path / "one", *digits), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ended = [ends(process) for process in pair(tmp_path / "two", *digits)]
    assert [status for status, _, _ in ended] == [0, 0], ended
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert [(x["step"], x["split"], x["count"]) for x in one] == [(x["step"], x["split"], x["count"]) for x in two]
    assert [x["count"] for x in two] == [128] * 11 + [360]
    np.testing.assert_allclose([x["loss"] for x in two], [x["loss"] for x in one], rtol=1e-4)
    (_, primary, _), (_, secondary, _) = ended
    assert "best: validation" in primary
    # Of two threads' lines the prefix may come late.
    assert not [line for line in secondary.splitlines() if "[Gloo]" not in line and "peer ranks" not in line]
    ours, theirs = (json.loads((tmp_path / run / "report" / "report.json").read_text()) for run in ("two", "one"))
    assert (ours["step"], ours["count"], np.sum(ours["confusion"])) == (11, 360, 360)
    assert ours["top1"] == pytest.approx(two[-1]["top1"])
    np.testing.assert_array_equal(np.sum(ours["confusion"], axis=1), np.sum(theirs["confusion"], axis=1))
    labels = [{mistake["image"]: mistake["class"] for mistake in each["mistakes"]} for each in (ours, theirs)]
    common = labels[0].keys() & labels[1].keys()  # the answers of both runs say which picture each number was of
    assert common and all(labels[0][image] == labels[1][image] for image in common)


def test_a_pair_ends_together_where_the_loss_is_not_finite(pair, tmp_path):
    ended = [ends(process, timeout=100) for process in pair(tmp_path, "--config.learning_rate=1e30")]
    assert [status for status, _, _ in ended] == [FAILED, FAILED], ended
    for _, _, errors in ended:
        assert "the loss is not finite at step" in errors.splitlines()[-1]


def test_a_pair_survives_a_stop_and_the_loss_of_either(on, pair, tmp_path):
    """SIGTERM to one stops both; of two, one killed ends the other; each time the same command goes on."""
    whole = tmp_path / "whole"
    ended = [ends(process) for process in pair(whole, *OFTEN)]
    assert [status for status, _, _ in ended] == [0, 0], ended

    workdir = tmp_path / "run"
    processes = pair(workdir, *OFTEN)
    after_lines(workdir, 12, processes[0])
    processes[1].send_signal(signal.SIGTERM)  # a pod is preempted host by host
    ended = [ends(process) for process in processes]
    assert [status for status, _, _ in ended] == [RESUME, RESUME], ended
    assert "interrupted; saved in" in ended[0][1]
    stopped = checkpoint_steps(workdir)[-1]
    assert stopped == max(line["step"] for line in read_metrics(workdir))

    for victim, own_parent in ((1, True), (0, False)):
        processes = pair(workdir, *OFTEN)
        lines = len(read_metrics(workdir))
        after_lines(workdir, lines + 10, processes[0])
        if own_parent:
            processes[victim].kill()
        else:  # the one that works, as the kernel would for its memory
            (child,) = Path(f"/proc/{processes[victim].pid}/task/{processes[victim].pid}/children").read_text().split()
            subprocess.run(["kill", "-9", child], check=True)
            status, _, errors = ends(processes[victim], timeout=60)
            assert (status, errors.splitlines()[-1].partition(";")[0]) == (RESUME, "error: ended by SIGKILL")
        status, _, errors = ends(processes[1 - victim], timeout=60)
        assert status == RESUME, errors
        assert "newest checkpoint" in errors.splitlines()[-1]

    fewer = shutil.copytree(workdir, tmp_path / "fewer")
    saved = checkpoint_steps(fewer)[-1]
    before = parameters(fewer, saved)
    ended = [ends(process) for process in pair(workdir, *OFTEN)]
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert f"resumed from step {saved} " in ended[0][1]
    ours, theirs = parameters(workdir), parameters(whole)
    assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}

    done = subprocess.run(**on(8, fewer, *OFTEN), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    moved = 0
    for name, value in parameters(fewer).items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-5, err_msg=name)
        moved = max(moved, np.abs(value - before[name]).max())
    assert moved > 1e-3  # by what it trained there


def test_an_error_in_one_process_ends_the_other_with_the_same_status(pair, tmp_path):
    processes = pair(tmp_path, own=("--config.data_dir=/proc/nowhere",))
    ended = [ends(process, timeout=60) for process in processes]
    assert [status for status, _, _ in ended] == [BAD_INPUT, BAD_INPUT], ended
    first, second = (errors.splitlines()[-1] for _, _, errors in ended)
    assert second.startswith("error: ") and "/proc/nowhere" in second
    assert first == second.replace("error: ", "error: process 1: ")


def test_half_a_place_among_the_processes_is_refused(command, tmp_path):
    done = subprocess.run(**command(tmp_path, "--num_processes=2"), capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (BAD_INPUT, "")
    assert "give all three" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "platforms", "asked"),
    [
        ({}, None, False),
        ({}, "cpu", False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, "cuda", False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, "cuda", True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, None, True),
        ({}, "tpu,cpu", True),  # what JAX sets on a TPU VM
    ],
)
def test_jax_is_asked_for_other_processes_only_where_it_can_tell(monkeypatch, environment, platforms, asked):
    calls = []
    fake = SimpleNamespace(
        config=SimpleNamespace(values={"jax_platforms": platforms}),
        distributed=SimpleNamespace(initialize=lambda *place, **times: calls.append(place)),
    )
    monkeypatch.setattr(distributed, "jax", fake)
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.initialize()
    assert calls == ([(None, None, None)] if asked else [])
    distributed.initialize("host:1234", 2, 1)
    assert calls[-1] == ("host:1234", 2, 1)
