"""A workdir has one writer at a time, and a dead one keeps nobody out."""

import os
import signal
import subprocess
import sys

import pytest

from eca_jax.training.loop import train
from eca_jax.training.runtime.lock import LOCK_FILE, only_writer

HOLD = "import sys, time; from eca_jax.training.runtime.lock import only_writer\n"
HOLD += "with only_writer(sys.argv[1]): print('in', flush=True); time.sleep(600)"


@pytest.fixture
def other(tmp_path):
    """A process that writes to `tmp_path`/run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_changes_nothing(config, tmp_path, other):
    with pytest.raises(ValueError, match=rf"run is being written to by process {other.pid} on {os.uname().nodename}"):
        train(config, tmp_path / "run")
    assert os.listdir(tmp_path / "run") == [LOCK_FILE]


def test_a_killed_process_keeps_nobody_out(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    with only_writer(tmp_path / "run"), pytest.raises(ValueError, match=f"process {os.getpid()} "):
        only_writer(tmp_path / "run").__enter__()
    with only_writer(tmp_path / "run"):
        pass


def test_what_is_no_directory_is_left_to_who_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with only_writer(tmp_path / "file"), only_writer("gs://bucket/run"):
        pass
