"""Run by test_kills.py: one training in WORKDIR, killed with SIGKILL KILLS times, then to its end; JSON on stdout.

    python killed_often.py CONFIG DATA_DIR WORKDIR KILLS SEED KEYS_OF_THE_CONFIG_AS_JSON

Every attempt is a fork of this process, which has imported all that is slow to import and touched no device: so an
attempt begins to train after a second. For each kill a number of lines of metrics.jsonl is drawn (one for every step
and every evaluation), and what the run shall be at after them; `phase` reads that off the workdir, before and after.
"""

import importlib
import json
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

from eca_jax.data.runtime import tensorflow
from eca_jax.training import loop
from eca_jax.training.metrics import read_metrics
from eca_jax.weights import store

EPOCH_STEPS = 6


def attempt(config, workdir):
    """Forks a training; returns its process and a pipe that says when it takes its first step."""
    started, say = os.pipe()
    process = os.fork()
    if process:
        os.close(say)
        return process, started
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        steps = loop._Run.steps

        def saying(*arguments):
            os.write(say, b"1")
            return steps(*arguments)

        loop._Run.steps = saying
        loop.train(config, workdir)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def phase(workdir):
    """What a run is at: "evaluation", which the save of the same step may overlap; "save"; or else "step"."""
    found = [entry.name for entry in (workdir / store.CHECKPOINTS).iterdir()]
    lines = read_metrics(workdir)
    step = lines[-1]["step"] if lines else 0
    if (
        step
        and step % EPOCH_STEPS == 0
        and lines[-1]["split"] == "train"
        and str(step) in {n.split(".")[0] for n in found}
    ):
        return "evaluation"
    return "save" if any("tmp" in name for name in found) else "step"


def main():
    path, data_dir, workdir, kills, seed, keys = sys.argv[1:]
    config = runpy.run_path(path)["get_config"]()
    config.update({"data_dir": data_dir, **json.loads(keys)})
    workdir, draw = Path(workdir), random.Random(int(seed))
    tensorflow()
    for slow in ("clu.metric_writers", "matplotlib.pyplot", "tensorflow_datasets"):
        importlib.import_module(slow)

    log = []
    while len(log) < int(kills):
        process, started = attempt(config, workdir)
        assert os.read(started, 1) == b"1", "the attempt ended before its first step"
        os.close(started)
        lines, aim = len(read_metrics(workdir)) + draw.randrange(6), draw.choice(("step", "save", "evaluation"))
        while len(read_metrics(workdir)) < lines or phase(workdir) != aim:
            assert os.waitpid(process, os.WNOHANG) == (0, 0), f"the run ended after {len(log)} kills"
            time.sleep(draw.uniform(0, 0.005))
        os.kill(process, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert ended == -signal.SIGKILL, f"the run ended after {len(log)} kills"
        log.append([phase(workdir), max(store.checkpoint_steps(workdir), default=0)])
    process, _ = attempt(config, workdir)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    print(json.dumps(log))


if __name__ == "__main__":
    main()
