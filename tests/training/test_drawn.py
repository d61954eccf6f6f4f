"""With all that draws, a step sees the same bytes in one process, two and four, and whichever step comes first."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
STEPS = 8  # an epoch has 6
KEYS = {
    "interpolation": "bicubic",
    "augment": "rand-m9-n4-mstd0.5-inc1+3a+ta_wide+jitter-0.4",
    "repeated_augmentation": 3,
    "bn_group_size": 2,
    "mix": {"mixup": 0.4, "cutmix": 1.0, "probability": 0.9, "mode": "pair"},
    "erase": {"probability": 0.5, "count": 2},
}


@pytest.fixture(scope="module")
def drawn(command, tree):
    """`drawn(processes, devices_each, first, steps)` -> for each process what it printed."""

    def run(processes, devices, first=0, steps=STEPS):
        environment = {**command("unused")["env"], "PYTHONPATH": os.fspath(HERE.parents[1])}
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        line = [sys.executable, HERE / "drawn.py", HERE / "tiny.py", tree, json.dumps(KEYS), first, steps]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        places = [[coordinator, processes, rank] for rank in range(processes)] if processes > 1 else [[]]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started = [subprocess.Popen([*map(str, line + place)], env=environment, **pipes) for place in places]
        try:
            ended = [process.communicate(timeout=300) for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0] * processes, ended
        return [json.loads(output.splitlines()[-1]) for output, _ in ended]

    return run


@pytest.fixture(scope="module")
def whole(drawn):
    (found,) = drawn(1, 1)
    return found


def test_what_is_seen_is_not_nothing(whole):
    for name in ("images", "undropped"):
        assert len({step[name] for step in whole}) == STEPS
    assert all(0.1 < step["mean"] < 10 and step["count"] == 8 for step in whole)
    kept = np.array([step["kept"] for step in whole])
    assert 0.3 < (kept > 0).mean() < 0.9 and len(np.unique(kept > 0, axis=0)) > 1


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_processes_see_what_one_does(drawn, whole, processes, devices):
    assert drawn(processes, devices) == [whole] * processes


def test_a_step_does_not_depend_on_those_before_it(drawn, whole):
    for first in (1, 5, 7):
        assert drawn(1, 1, first, 1) == [whole[first : first + 1]]
