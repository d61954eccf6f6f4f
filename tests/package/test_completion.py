"""`eca-jax completion`: its script completes in a shell of its own, where no Python runs."""

import shutil
import subprocess
import sys

import pytest

from eca_jax.commands.main import COMMANDS, main

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """`complete("train", "fine")` -> what bash offers for the last word."""
    script = tmp_path_factory.mktemp("completion") / "eca-jax.bash"
    with pytest.MonkeyPatch.context() as patched, script.open("w") as file:
        patched.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0

    def offered(*words):
        line = " ".join(f"'{word}'" for word in ("eca-jax", *words))
        asked = f"source '{script}'; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_eca_jax; "
        asked += "printf '%s\\n' \"${COMPREPLY[@]}\""
        done = subprocess.run([BASH, "-c", asked], env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=60)
        return done.stdout.split()

    return offered


@pytest.mark.skipif(not BASH, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], list(COMMANDS)),
        (["vis"], ["visualize"]),
        (["train", "finet"], ["finetune"]),
        (["train", "finetune", "--config.learning"], ["--config.learning_rate"]),
        (["train", "finetune", "--config.optimizer.mom"], ["--config.optimizer.momentum"]),
        (["predict", "--model", "eca_resnet1"], ["eca_resnet101", "eca_resnet152", "eca_resnet18"]),
        (["predict", "--wei"], ["--weights"]),
        (["bench", "atten"], ["attention"]),
    ],
)
def test_bash_completes(complete, words, expected):
    assert set(expected) <= set(complete(*words))
    if words != [""]:
        assert sorted(complete(*words)) == sorted(expected)


def test_without_shtab_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert "pip install 'eca-jax[completion]'" in capsys.readouterr().err
