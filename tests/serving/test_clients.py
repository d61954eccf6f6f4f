"""Public clients, unchanged, in an environment of their own (requirements-clients.txt): Triton's, and schemathesis."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from servers import encoded

import eca_jax

CLIENTS = Path(sys.prefix) / "clients" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIENTS.exists() and "CI" not in os.environ, reason="`make test` installs the clients"),
]

TRITON = """
import json, sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

port, *paths = sys.argv[1:]
client = triton.InferenceServerClient(f"127.0.0.1:{port}")
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("noise")
assert client.is_model_ready("noise", "1") and not client.is_model_ready("absent")
print(json.dumps([client.get_server_metadata(), client.get_model_metadata("noise")]))
files = np.array([open(path, "rb").read() for path in paths], object)
outputs = None
for binary in (True, False):
    images = triton.InferInput("images", [len(files)], "BYTES")
    images.set_data_from_numpy(files, binary_data=True)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "probabilities", "features")]
    answer = client.infer("noise", [images], outputs=wanted, request_id="7", model_version="1")
    assert answer.get_response()["id"] == "7"
    print(json.dumps({name: answer.as_numpy(name).tolist() for name in ("logits", "probabilities", "features")}))
pixels = triton.InferInput("pixels", [2, 32, 32, 3], "UINT8")
for binary in (True, False):
    pixels.set_data_from_numpy(np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3), binary_data=binary)
    print(json.dumps({"logits": client.async_infer("noise", [pixels]).get_result().as_numpy("logits").tolist()}))
try:
    client.infer("absent", [pixels])
except InferenceServerException as error:
    print(json.dumps(error.message()))
"""


def run(*command, directory, **environment):
    environment = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=directory, timeout=300)


def test_tritons_client_has_the_predictors_numbers(port, weights, tmp_path):
    images = [encoded(seed=seed) for seed in range(4)]
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    done = run(CLIENTS / "python", "-c", TRITON, str(port), *map(str, paths), directory=tmp_path)
    assert done.returncode == 0, done.stderr
    (server, model), *answers, refusal = map(json.loads, done.stdout.splitlines())
    assert (server["name"], model["inputs"][0]["name"]) == ("eca-jax", "images")
    predictor = eca_jax.Predictor.load(weights, batch_sizes=(4,), outputs=("logits", "features"))
    expected = {
        "logits": predictor(images),
        "probabilities": predictor.probabilities(images),
        "features": predictor.features(images),
    }
    for answer in answers[:2]:
        for name, array in expected.items():
            np.testing.assert_array_equal(np.array(answer[name], np.float32), array)
    assert answers[2] == answers[3] and np.shape(answers[2]["logits"]) == (2, 4)
    assert "there is no model 'absent'" in refusal


def test_schemathesis_finds_nothing(port, tmp_path):
    """Every check, in every phase: over a thousand requests, by the document and against it."""
    hooks = {"SCHEMATHESIS_HOOKS": "schema_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    address, limits = f"http://127.0.0.1:{port}/openapi.json", ("--max-examples", "15", "--seed", "1")
    command = (CLIENTS / "schemathesis", "--no-color", "run", address, "--checks", "all", *limits)
    done = run(*command, directory=tmp_path, **hooks, IMAGE_SIZE="32", MODELS="noise,objects")
    assert done.returncode == 0, done.stdout[-9000:]
    assert "No issues found" in done.stdout
