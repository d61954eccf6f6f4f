"""The benchmark commands: who runs when, what they report, and what they refuse."""

import json
import subprocess
import sys

import pytest

from eca_jax.bench import conv as bench_conv
from eca_jax.bench import device as bench_device
from eca_jax.bench import predict as bench_predict
from eca_jax.bench import recipe
from eca_jax.bench import report as bench_report
from eca_jax.bench.tpu import contestants
from eca_jax.commands import main as cli
from eca_jax.config import load_recipe
from eca_jax.models import Preprocessing


def test_contestants_are_warmed_and_take_turns():
    calls = []
    runners = {name: lambda count, name=name: calls.append((name, count)) for name in "ab"}
    times = bench_device.measure(runners, rounds=3, seconds=0.0)
    warm_up = [("a", 2), ("a", 1), ("b", 2), ("b", 1)]
    assert calls == warm_up + [("a", 1), ("a", 1), ("b", 1), ("b", 1)] * 3  # of each turn the first is not timed
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_speeds_are_median_slowest_and_fastest_images_per_second():
    assert bench_device.speeds([0.5, 0.25, 1.0], batch_size=4) == {"median": 8.0, "low": 4.0, "high": 16.0}


@pytest.mark.slow
def test_inference_is_measured_and_reported_as_json_with_a_plot(tmp_path, capsys):
    plot = tmp_path / "speed.png"
    arguments = "bench infer --model resnet18 --image_size 32 --batch_size 2 --rounds 2 --seconds 0.01 --json"
    assert cli.main([*arguments.split(), "--plot", str(plot)]) == 0
    result = json.loads(capsys.readouterr().out)
    speed = result["images_per_second"]["2"]["resnet18"]
    assert 0 < speed["low"] <= speed["median"] <= speed["high"]
    assert result["machine"]["jax"] and result["machine"]["device"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [plot]


def test_a_stream_of_images_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(bench_predict, "preprocessing", lambda name: Preprocessing(image_size=32, crop_pct=32 / 36))
    arguments = "bench predict --model resnet18 --images 10 --batch_size 4 --json"
    assert cli.main(arguments.split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["busy"] <= 1
    assert min(result["images_per_second"], result["images_per_second_alone"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["step", "infer"])
def test_the_pytorch_peer_runs_the_same_network(kind):
    pytest.importorskip("torch")
    images, labels = bench_device.images_and_labels(2, 32)
    peers = bench_device.peers(kind, "eca_mobilenet_v2", "float32", images, labels)
    assert list(peers) == ["torch eager", "torch channels_last", "torch compiled channels_last"]
    for form in list(peers)[:2]:  # compiling takes a minute
        peers[form](1)


@pytest.mark.slow
def test_a_training_step_of_ours_is_measured_here():
    images, labels = bench_device.images_and_labels(2, 32)
    run_steps = bench_device.ours("step", "resnet18", "float32", images, labels)
    run_steps(2)


def test_every_convolution_is_found_nfnets_scaled_ones_too():
    counts = bench_conv.convolutions("eca_nfnet_l0", 1, 64)
    assert counts.total() == 57 and all(found.multiply_adds > 0 for found in counts)


@pytest.mark.slow
def test_every_convolution_is_measured_in_every_direction(capsys):
    arguments = "bench conv --model resnet18 --batch_size 1 --image_size 32 --rounds 1 --peer torch --json"
    assert cli.main(arguments.split()) == 0
    rows = json.loads(capsys.readouterr().out)["convolutions"]
    assert {row["direction"] for row in rows} == {"forward", "dx", "dkernel"}
    assert sum(row["count"] for row in rows) == 3 * 20
    assert all({"PyTorch", "XLA"} <= row["gflops"].keys() for row in rows)


def test_the_tpu_benchmark_compares_with_stock_layers_and_with_the_layer_not_folded():
    networks = contestants("eca_resnet50", "resnet50", naive=True, group_size=128)
    assert list(networks) == [
        "stock flax layers",
        "stock flax layers + ECA layer",
        "resnet50",
        "eca_resnet50",
    ]
    naive = contestants("eca_mobilenet_v2", "mobilenet_v2", naive=True, group_size=128)
    assert list(naive) == ["mobilenet_v2", "eca_mobilenet_v2, not folded", "eca_mobilenet_v2"]
    assert list(contestants("eca_mobilenet_v2", "mobilenet_v2", naive=False, group_size=128)) == [
        "mobilenet_v2",
        "eca_mobilenet_v2",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bench tpu --topology v9:2x2", "unknown TPU topology"),
        ("bench infer --model resnet51", "unknown model"),
        ("bench step --model resnet51", "unknown model"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_speed_is_measured_where_there_are_only_the_core_and_optax():
    code = """
import sys
missing = ("tensorflow", "tensorflow_datasets", "clu", "orbax", "sklearn", "matplotlib", "torch")
sys.modules.update(dict.fromkeys(missing))
from eca_jax.commands import main as cli
sys.exit(cli.main("bench infer --model resnet51".split()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "unknown model" in done.stderr, done.stderr


def test_a_table_is_markdown_with_aligned_columns():
    rows = [{"network": "a", "images/s": "1.25"}, {"network": "longer", "images/s": "10"}]
    assert bench_report.table(rows).splitlines() == [
        "| network | images/s |",
        "|---------|---------:|",
        "| a       |     1.25 |",
        "| longer  |       10 |",
    ]


@pytest.mark.slow
def test_the_tpu_benchmark_prints_the_compilers_estimates(capsys):
    arguments = "bench tpu --model resnet18 --baseline resnet18 --only infer --image_size 32 --batch_per_chip 4 --json"
    assert cli.main(arguments.split()) == 0
    rows = json.loads(capsys.readouterr().out)["estimates"]["infer"]
    assert rows.keys() == {"stock flax layers", "resnet18"}
    assert all(row["cycles"] > 0 and row["all_reduces"] == 0 for row in rows.values())


@pytest.mark.slow
def test_the_whole_step_of_a_recipe_is_measured_without_data():
    config = load_recipe("tests/training/tiny.py")
    report = recipe.run("tiny", config, seconds=0.0, rounds=3)
    assert len(report.result["rounds"]) == 3 and report.result["batch_size"] == 8
    assert report.result["step_ms"] == 8 / report.result["images_per_second"] * 1000
    assert report.result["gib"] > 0
    assert "| tiny" in report.text
