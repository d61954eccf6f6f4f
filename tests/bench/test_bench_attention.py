"""`bench attention`: plain and attention take turns, and what is said is the median of their ratios."""

import json

import pytest

from eca_jax.bench import attention as bench_attention
from eca_jax.commands import main as cli


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
