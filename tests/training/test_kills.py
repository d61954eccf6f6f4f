"""Kills at random times over one run: it ends as the run that nobody touched, whatever they hit."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from eca_jax.training.metrics import TIMINGS, read_metrics
from eca_jax.weights.store import checkpoint_steps, read, read_optimizer

pytestmark = pytest.mark.slow
KILLS = 20
KEYS = {"num_epochs": 24, "checkpoint_every_steps": 4, "log_every_steps": 1, "keep_checkpoints": 3}
# Of the recipe `rsb_a2` whatever the run's length and images do not ask otherwise, and erasing.
A2 = {
    "eval_image_size": 20,
    "augment": "rand-m7-mstd0.5-inc1",
    "repeated_augmentation": 3,
    "mix": {"mixup": 0.1, "cutmix": 1.0},
    "erase": {"probability": 0.25},
    "loss": {"name": "binary", "threshold": 0.2},
    "model_overrides": {"drop_path": 0.05},
    "learning_rate": 5e-3,
    "optimizer": {"name": "lamb", "weight_decay": 0.02, "decay_kernels_only": True},
    "schedule": {"form": "timm", "warmup_epochs": 5.0, "warmup_rate": 1e-4, "min_rate": 1e-6},
}


@pytest.mark.parametrize(("total", "keys"), [(KILLS, {}), (8, A2)], ids=["paper", "a2"])
def test_kills_leave_no_trace(command, tree, tiny, tmp_path, total, keys):
    outputs = {}
    for name, kills in (("killed", total), ("whole", 0)):
        line = command(tmp_path / name)
        config = line["args"][2].partition("=")[2]
        script = ["tests/training/killed_often.py", config, tree, tmp_path / name, kills, 5, json.dumps(KEYS | keys)]
        line |= {"args": [sys.executable, *map(str, script)]}
        line["env"]["PYTHONPATH"] = str(line["cwd"])
        done = subprocess.run(**line, capture_output=True, timeout=400)
        assert done.returncode == 0, done.stderr
        outputs[name] = json.loads(done.stdout)
    fell = Counter(phase for phase, _ in outputs["killed"])
    print(fell, outputs["killed"])
    assert fell.total() == total and set(fell) <= {"step", "save", "evaluation"}
    assert total < KILLS or len(fell) == 3  # as many fall at each
    steps = [step for _, step in outputs["killed"]]
    assert steps == sorted(steps) and steps[-1] > 0  # nothing that was saved was lost
    assert recorded(tmp_path / "killed") == recorded(tmp_path / "whole")
    last = checkpoint_steps(tmp_path / "whole")[-1]
    assert checkpoint_steps(tmp_path / "killed") == checkpoint_steps(tmp_path / "whole")
    for load in (lambda w: read(w, last, ema=False).variables, lambda w: read(w, last).variables, optimizer):
        assert as_bytes(load(tmp_path / "killed")) == as_bytes(load(tmp_path / "whole"))


def optimizer(workdir):
    return read_optimizer(workdir, checkpoint_steps(workdir)[-1])


def recorded(workdir):
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in read_metrics(workdir)]


def as_bytes(tree):
    return {k: as_bytes(v) if isinstance(v, dict) else v.tobytes() for k, v in tree.items()}
