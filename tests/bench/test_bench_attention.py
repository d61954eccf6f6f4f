"""`bench attention`: plain and attention take turns, and what is said is the median of their ratios."""

import json

import pytest

from eca_jax.bench import attention as bench_attention
from eca_jax.commands import main as cli
from eca_jax.layers import list_attentions
from eca_jax.models import create_model


@pytest.fixture
def clock(monkeypatch):
    """A clock that passes run: 2 seconds a pass with an attention, 1 without; and 9 more in one slow round."""
    now = [0.0]
    turns = []

    def of_module(kind, model, images, labels):
        def run_passes(count):
            turns.append((kind, model.attention))
            slow = 9 if len(turns) in (6, 7) else 0
            now[0] += count * (1 if model.attention is None else 2) + slow

        return run_passes

    monkeypatch.setattr(bench_attention, "of_module", of_module)
    monkeypatch.setattr("eca_jax.bench.device.time.perf_counter", lambda: now[0])
    return turns


def test_the_ratio_is_the_median_over_the_rounds(clock, capsys):
    arguments = "bench attention --model resnet18 --attention eca,se --batch_size 4 --rounds 3 --seconds 0 --json"
    assert cli.main(arguments.split()) == 0
    result = json.loads(capsys.readouterr().out)
    for name in ("eca", "se"):
        for kind in ("step", "infer"):
            found = result["attentions"][name][kind]
            assert found["ratio"] == 0.5
            assert found["images_per_second"] == 2.0
            assert found["ratio_low"] <= 0.5 <= found["ratio_high"]
    assert {attention for _, attention in clock} == {None, "eca", "se"}
    # Within a round: plain, then the attention.
    timed = [attention for kind, attention in clock if kind == "step"][4:16]
    assert timed == [None, None, "eca", "eca"] * 3


def test_the_gates_that_fold_are_the_default(clock, capsys):
    arguments = "bench attention --model resnet18 --batch_size 4 --rounds 1 --seconds 0 --only infer"
    assert cli.main(arguments.split()) == 0
    out = capsys.readouterr().out
    for name in ("eca", "eca_ns", "se", "se_var3"):
        assert f"| {name} " in out
    assert "| cbam" not in out and "training" not in out


def test_a_registered_network_has_its_attention_in_its_own_places():
    built = bench_attention.networks("resnet50", ["gc", "gct"], "float32", None)
    assert built["gc"].attention_blocks == create_model("gc_resnet50").attention_blocks
    assert built["gct"].attention_blocks is None
    short = bench_attention.networks("resnet50", ["gc"], "float32", (1, 1, 1, 1))
    assert short["gc"].attention_blocks is None


def test_attentions_by_pattern(clock, capsys):
    arguments = "bench attention --model resnet50 --attention eca?,* --batch_size 4 --rounds 1 --seconds 0 --only infer"
    assert cli.main(arguments.split()) == 0
    rows = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert rows[:2] == ["eca2", "eca3"] and sorted(rows) == list_attentions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model resnet18 --attention ecaa", "did you mean ec"),
        ("--model mobilenet_v2 --attention eca --stage_sizes 1,1,1,1", "mobilenet_v2 has no stage_sizes"),
    ],
)
def test_bad_input_is_one_line(clock, options, message, capsys):
    assert cli.main(["bench", "attention", *options.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
