"""Sweeps: the plan, the statistics, the table, and a runner that can be killed."""

import contextlib
import csv
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from eca_jax.analysis.sweep import NO_DIFFERENCE, Result, half_width, load_sweep, markdown, summarize, table
from eca_jax.analysis.sweep_runner import plot, run_sweep
from eca_jax.config import plain, recipe_directory
from eca_jax.tasks.task import create_task
from eca_jax.training.loop import NonFiniteLoss

SWEEP = """
import eca_jax
from eca_jax.analysis.sweep import on_digits

def get_config():
    config = eca_jax.default_config()
    on_digits(config)
    config.model = "resnet18"
    config.model_overrides.small_images = True
    config.model_overrides.stage_sizes = (1, 0, 0, 0)
    config.image_size, config.batch_size, config.num_epochs = 8, 128, 2
    config.compilation_cache = {cache!r}
    return config

def sweep(add):
    add("plain", label="ResNet", paper=98)
    for name in ("se", "eca"):
        add(name, model_overrides={{"attention": name}})
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(SWEEP.format(cache=str(tmp_path / "cache")))
    return path


def results(**rows):
    return {(name, seed): Result(v / 100, v / 100, 360) for name, values in rows.items() for seed, v in values.items()}


def test_the_plan_has_seeds_outermost_and_shards_that_are_all_of_it(file):
    sweep = load_sweep(file)
    runs = sweep.runs(2)
    expected = [f"{row}/seed{seed}" for seed in range(2) for row in ("plain", "se", "eca")]
    assert [run.directory for run in runs] == expected
    shards = [run.directory for index in range(2) for run in sweep.runs(2, (index, 2))]
    assert sorted(shards) == sorted(expected)
    assert runs[4].config.seed == 1 and runs[4].config.model_overrides.attention == "se"
    assert runs[0].config.model_overrides.attention is None  # rows share nothing
    assert [row.name for row in load_sweep(file, only=["eca"]).rows] == ["plain", "eca"]  # and the baseline


def test_what_a_sweep_file_gets_wrong_is_said_in_one_line(file):
    with pytest.raises(ValueError, match="no small version"):
        load_sweep(file, small=True)
    with pytest.raises(ValueError, match="no row matches cbam: there are plain, se, eca"):
        load_sweep(file, only=["cbam"])
    with pytest.raises(FileNotFoundError, match="no sweep 'kernels': there are channel_attention"):
        load_sweep("kernels")
    text = file.read_text()
    file.write_text(text.replace("paper=98", 'modle="resnet18"'))
    with pytest.raises(ValueError, match=r"row 'plain'.*modle"):
        load_sweep(file)
    file.write_text(text.replace('for name in ("se"', 'for name in ("plain"'))
    with pytest.raises(ValueError, match="'plain' is no name for another row"):
        load_sweep(file)


@pytest.mark.parametrize("name", [path.stem for path in sorted((recipe_directory() / "sweeps").glob("*.py"))])
@pytest.mark.parametrize("small", [False, True])
def test_every_row_of_the_papers_sweeps_is_a_recipe(name, small):
    rows = load_sweep(name, small=small).rows
    models = [str(create_task(row.config).model) for row in rows]
    assert len(set(models)) == len(rows)  # no two rows train the same network
    assert (rows[0].paper is None) == small


def test_intervals_are_scipys_paired_ones():
    from scipy import stats

    plain, other = [98.61, 98.89, 99.44], [99.72, 97.50, 98.61]
    expected = stats.ttest_rel(other, plain).confidence_interval(0.95)
    differences = np.subtract(other, plain)
    low, high = differences.mean() - half_width(differences), differences.mean() + half_width(differences)
    np.testing.assert_allclose([low, high], [expected.low, expected.high])
    assert half_width([1.0]) == math.inf


def test_a_difference_is_shown_only_where_its_interval_leaves_out_zero(file):
    values = {
        "plain": {0: 90.0, 1: 91.0, 2: 92.0},
        "se": {0: 92.0, 1: 93.1, 2: 93.9},  # all about 2 higher, each with its seed
        "eca": {0: 92.0, 1: 91.0, 2: 95.0},
    }
    found = summarize(load_sweep(file), results(**values))
    assert found["se"].verdict == "higher" and found["eca"].verdict == NO_DIFFERENCE
    assert found["se"].difference == pytest.approx(2.0)
    assert found["eca"].deviation == pytest.approx(np.std([92, 91, 95], ddof=1))
    assert found["plain"].binomial_error == pytest.approx(100 * math.sqrt(0.91 * 0.09 / 360))


def test_the_table_marks_what_is_not_there_and_claims_nothing_of_one_seed(file):
    sweep = load_sweep(file)
    found = summarize(sweep, results(plain={0: 90.0, 1: 91.0}, se={1: 99.0}))
    sizes = {"plain": 1_234_567, "se": 89, "eca": 1}
    header, *rows = table(sweep, found, sizes, 3, {"eca": "seed 0 diverged"})
    lines = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    plain, se, eca = lines["ResNet"], lines["se"], lines["eca"]
    assert (plain["parameters"], plain["seeds"], plain["paper"]) == ("1,234,567", "2 of 3", "98.00")
    assert (se["top-1 %"], se["min-max"]) == ("99.00", "")
    assert rows[1][6:8] == ["+8.00", NO_DIFFERENCE]
    assert eca["seeds"] == "0 of 3" and "seed 0 diverged" in rows[2]
    text = markdown(sweep.name, table(sweep, found, sizes, 3, {}), found)
    assert "360 validation images: one is 0.28 points" in text
    figure = plot(sweep, found)
    assert [label.get_text() for label in figure.legends[0].get_texts()] == ["ResNet", "se"]


@pytest.fixture
def trained(monkeypatch):
    """The runs that the runner hands to the trainer, which here only writes what the real one leaves; SE diverges."""
    calls = []

    def train(config, workdir):
        calls.append(f"{workdir.parent.name}/{workdir.name}")
        if config.seed == 1 and "stop" in calls:
            return None
        workdir.mkdir(parents=True, exist_ok=True)
        content = json.loads(json.dumps({"config": plain(config), "train_examples": 1437}))
        (workdir / "config.json").write_text(json.dumps(content))
        if config.model_overrides.attention == "se":
            raise NonFiniteLoss("the loss is not finite at step 3")
        line = {"split": "validation", "loss": 0.3, "top1": 0.9, "count": 360}
        lines = [{"step": 11 * epoch, "epoch": epoch, **line} for epoch in (1, 2)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return lines[-1]

    monkeypatch.setattr("eca_jax.analysis.sweep_runner.train", train)
    return calls


def test_a_run_that_diverges_is_said_and_the_others_go_on(file, tmp_path, trained):
    outcome = run_sweep(load_sweep(file), tmp_path / "root")
    assert trained == ["plain/seed0", "se/seed0", "eca/seed0"]
    assert list(outcome.diverged) == [("se", 0)] and not outcome.interrupted
    text = (tmp_path / "root" / "table.md").read_text()
    # By hand: the stem and a block of two 3x3 convolutions, 64 channels each, their BatchNorms, the classifier of 10.
    # SE's two matrices are of 64 and 4 channels; of 64 channels the release's rule gives ECA 3 taps.
    plain = 27 * 64 + 2 * 9 * 64**2 + 3 * 2 * 64 + 65 * 10
    assert f"| ResNet | {plain:,} | 1 of 1 | 90.00 |" in text
    assert f"| se | {plain + 2 * 64 * 4:,} | 0 of 1 |  |  |  |  | seed 0 diverged |" in text
    assert f"| eca | {plain + 3:,} | 1 of 1 | 90.00 |" in text


def test_only_what_is_not_finished_is_trained_and_a_stop_is_told(file, tmp_path, trained):
    sweep = load_sweep(file)
    run_sweep(sweep, tmp_path / "root")
    trained[:] = ["stop"]
    outcome = run_sweep(sweep, tmp_path / "root", seeds=2)
    assert trained == ["stop", "se/seed0", "plain/seed1"] and outcome.interrupted


def test_runs_of_another_recipe_are_not_taken_for_these(file, tmp_path, trained):
    run_sweep(load_sweep(file), tmp_path / "root")
    changed = load_sweep(file, changes={"learning_rate": 0.5})
    with pytest.raises(ValueError, match=r"another recipe: learning_rate is 0\.05 there and 0\.5 here"):
        run_sweep(changed, tmp_path / "root")


@pytest.mark.slow
def test_a_sweep_that_is_killed_twice_ends_with_the_same_table_and_repeats_no_finished_run(file, tmp_path):
    root, whole = tmp_path / "killed", tmp_path / "whole"
    finished = {}
    for runs in (1, 3):  # killed when so many are finished, and the next has begun
        process = start(file, root)
        deadline = time.monotonic() + 300
        while not (done(root) >= runs and len(list(root.glob("*/*/config.json"))) > runs):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        finished |= {path: path.stat().st_mtime_ns for path in metrics(root)[:runs]}
    assert start(file, root).wait(300) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert done(root) == 6
    assert start(file, whole).wait(300) == 0
    for name in ("table.md", "table.csv", "runs.csv", "plot.png"):
        assert (root / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_two_processes_do_the_same_runs_together(file, tmp_path):
    """Stopped by a signal to one of them, and started again; one row diverges, and the next is trained."""
    head, _, _ = file.read_text().partition("    for name in")
    file.write_text(head + '    add("wild", learning_rate=1e9)\n    add("slow", learning_rate=0.01)\n')
    root = tmp_path / "root"
    first = pair(file, root)
    until(lambda: list(root.glob("*/*/config.json")), first)
    first[1].send_signal(signal.SIGTERM)
    assert [ended(process)[0] for process in first] == [75, 75]
    assert done(root) == 0

    (status, said), (other, nothing) = (ended(process) for process in pair(file, root))
    assert (status, other, nothing) == (1, 1, [])
    assert [line.split(": ")[0] for line in said[:4]] == ["run 1 of 3", "run 2 of 3", "diverged", "run 3 of 3"]
    counts = {row["row"]: row["count"] for row in csv.DictReader((root / "runs.csv").open())}
    assert counts == {"plain": "360", "slow": "360"}  # each image once, though two processes looked
    assert "| wild | " in (table := (root / "table.md").read_text()) and "seed 0 diverged" in table
    for name in counts:
        lines = [json.loads(line) for line in (root / name / "seed0" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["split"] == "validation"] == [11, 22]


def pair(file, root):
    """Two processes of one sweep, with a fake device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        flags = ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--num_processes", "2", "--process_id"]
    return [start(file, root, "--seeds", "1", *flags, str(rank), stdout=subprocess.PIPE) for rank in range(2)]


def until(condition, processes):
    deadline = time.monotonic() + 300
    while not condition():
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
        time.sleep(0.05)


def ended(process):
    """Exit status and the lines of the sweep: the runtime has its own of its connections."""
    output, _ = process.communicate(timeout=300)
    lines = [line for line in output.splitlines() if line.startswith(("run ", "diverged: ", "error: ", "/"))]
    return process.returncode, lines


def start(file, root, *arguments, stdout=subprocess.DEVNULL):
    command = [sys.executable, "-m", "eca_jax", "sweep", str(file), str(root), *(arguments or ("--seeds", "2"))]
    return subprocess.Popen(command, start_new_session=True, stdout=stdout, text=True)


def done(root):
    with contextlib.suppress(FileNotFoundError), open(root / "runs.csv", newline="") as lines:
        return len(list(csv.reader(lines))) - 1
    return 0


def metrics(root):
    """metrics.jsonl of the runs, in their order."""
    return [root / row / f"seed{seed}" / "metrics.jsonl" for seed in range(2) for row in ("plain", "se", "eca")]
