"""A small network served from its weights directory, and an image file of noise."""

import os
import re
import subprocess
import sys

import jax
import pytest
from servers import encoded, ready, serving
from small_network import OPTIONS, PREPROCESSING, random_variables

import eca_jax
from eca_jax.models import Preprocessing
from eca_jax.serving.models import Source
from eca_jax.weights.card import Card
from eca_jax.weights.store import save_directory


@pytest.fixture(scope="session")
def image():
    return encoded()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    before = jax.config.jax_compilation_cache_dir
    if not before:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w"
    model = eca_jax.create_model("eca_resnet18", num_classes=4, **OPTIONS)
    names = ("cat", "dog", "fox", "hen")
    card = Card("eca_resnet18", {"num_classes": 4, **OPTIONS}, Preprocessing.from_json(PREPROCESSING), names)
    save_directory(path, random_variables(model), card)
    return path


@pytest.fixture(scope="session")
def server(weights):
    service, running = serving(Source(str(weights)))
    with running:
        ready(service)
        running.service = service
        yield running


@pytest.fixture
def process(weights, tmp_path):
    """`eca-jax serve` on a port of its own, `process.port`; images wait 0.3 s for company."""
    command = [sys.executable, "-m", "eca_jax", "serve", "--weights", f"noise={weights}", "--batch_sizes", "1"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [*command, "--port", "0", "--max_delay", "0.3"], stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        line = running.stderr.readline()
        running.port = int(re.search(r"listening on http://127.0.0.1:(\d+)", line)[1])
        yield running
        running.kill()
