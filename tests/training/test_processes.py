"""Two processes with two devices each train as one process with four does."""

import os
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from eca_jax.training.checkpoint import checkpoint_steps
from eca_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow


def start_pair(command, workdir, *arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = []
    for rank in range(2):
        line = command(workdir, *arguments)
        line["env"] |= {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(rank),
        }
        pair.append(subprocess.Popen(**line, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return pair


def finish(pair):
    try:
        outputs = [process.communicate(timeout=300) for process in pair]
    finally:
        for process in pair:
            process.kill()
    for process, (_, errors) in zip(pair, outputs, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in outputs]


def test_two_processes_train_as_one(command, tmp_path):
    arguments = ("--config.num_epochs=2", "--config.bn_group_size=2", "--config.ema_decay=0")
    single = command(tmp_path / "one", *arguments)
    single["env"] |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    assert subprocess.run(**single, timeout=300).returncode == 0
    primary, secondary = finish(start_pair(command, tmp_path / "two", *arguments))
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert [(x["step"], x["split"], x["count"]) for x in one] == [(x["step"], x["split"], x["count"]) for x in two]
    np.testing.assert_allclose([x["loss"] for x in two], [x["loss"] for x in one], rtol=1e-4)
    assert "best: validation" in primary
    assert not [line for line in secondary.splitlines() if not line.startswith("[Gloo]")]


def test_a_stopped_pair_agrees_on_its_last_step(command, tmp_path):
    arguments = ("--config.num_epochs=200", "--config.eval_every_epochs=100", "--config.ema_decay=0")
    pair = start_pair(command, tmp_path, *arguments)
    deadline = time.monotonic() + 300
    while not read_metrics(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(pair[1].pid, signal.SIGTERM)  # a pod is preempted host by host
    primary, _ = finish(pair)
    assert "interrupted" in primary
    assert checkpoint_steps(tmp_path)[-1] >= max(line["step"] for line in read_metrics(tmp_path))
