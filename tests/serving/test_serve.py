"""`eca-jax serve` as a process: it ends by SIGTERM with what it accepted answered, and on bad input with one line."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest
from servers import encoded

from eca_jax.commands.main import main


def ask(port, method, path, body=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"Content-Type": "image/png"} if body else {})
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.slow
def test_sigterm_answers_what_was_accepted(process):
    """The images wait 0.3 s for company when the signal comes."""
    deadline = time.monotonic() + 120
    while ask(process.port, "GET", "/readyz")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, process.port, "POST", "/v1/predict", encoded(seed=seed)) for seed in range(4)]
        time.sleep(0.15)
        process.send_signal(signal.SIGTERM)
        assert [future.result()[0] for future in asked] == [200] * 4
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no runs/quickstart: say which --weights to serve"),
        (["--weights", "absent"], "there is no file or directory absent"),
        (["--weights", "absent.npz"], "there is no file absent.npz"),
        (
            ["--weights", "a=b", "--weights", "c=d", "--model", "eca_resnet18"],
            "--model is of one model, and there are several",
        ),
        (["--weights", "absent.npz", "--dtype", "bfloat16"], "is an exported model: dtype cannot be chosen any more"),
        (["--weights", "w", "--step", "first"], "a number or 'best', not 'first'"),
        (["--weights", "w", "--port", "70000"], "port must be from 0 to 65535, not 70000"),
        (["--weights", "w", "--batch_sizes", "0"], "must be a number of 1 or more, not 0"),
        (["--weights", "w", "--max_seconds", "-1"], "must be a number of seconds, not -1"),
        (["--weights", "w", "--max_seconds", "0"], "seconds must be above 0"),
    ],
)
def test_bad_input_ends_with_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    port = [] if "--port" in arguments else ["--port", "0"]
    assert main(["serve", *arguments, *port]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "eca_jax.serving.server", None)
    assert main(["serve", "--weights", "w"]) == 2
    assert "pip install 'eca-jax[serve]'" in capsys.readouterr().err


def test_the_command_imports_no_flax():
    code = "import sys, eca_jax.commands.serve, eca_jax.serving.server; print('flax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
