"""What a run says that a signal ends before it can save."""

import signal
import subprocess
import sys

import pytest

from eca_jax.training.runtime.supervise import RESUME

STARTING = "import sys, time; from eca_jax.training.runtime.supervise import supervise\n"
STARTING += "def work(): print('in', flush=True); time.sleep(600)\n"
STARTING += "sys.exit(supervise(work))"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_what_ended_it_is_said_and_what_the_same_command_does(number, name):
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "in\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == RESUME
    assert errors == (
        f"error: ended by {name}; the same command goes on from the newest checkpoint, and begins anew where there is "
        "none\n"
    )
