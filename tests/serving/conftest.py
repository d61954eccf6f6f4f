"""A small network served from its weights directory, and an image file of noise."""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
import time

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


DETECTOR = "mask_rcnn_eca_resnet50_fpn"
DETECTOR_OPTIONS = {
    "num_classes": 4,
    "backbone": "eca_resnet18",
    "backbone_options": {"stage_sizes": (1, 1, 1, 1)},
    "kernel_sizes": "adaptive",
    "width": 16,
    "rules": "torchvision",
    # Every image has detections, though the network has learnt nothing.
    "rule_options": {"score": 0.0, "rpn_before": 50, "rpn_after": 20, "detections": 5},
}


@pytest.fixture(scope="session")
def detector_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "d"
    variables = random_variables(eca_jax.create_model(DETECTOR, **DETECTOR_OPTIONS))
    card = Card(
        DETECTOR, DETECTOR_OPTIONS, Preprocessing(image_size=64), ("", "cat", "dog", "fox"), "detection", "box_ap"
    )
    save_directory(path, variables, card)
    return path


@pytest.fixture(scope="session")
def server(weights):
    service, running = serving(Source(str(weights)))
    with running:
        ready(service)
        running.service = service
        yield running


@contextlib.contextmanager
def serve(*arguments, cache):
    """`eca-jax serve` on a port of its own, `.port`."""
    command = [sys.executable, "-m", "eca_jax", "serve", "--port", "0", *arguments]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        line = running.stderr.readline()
        running.port = int(re.search(r"listening on http://127.0.0.1:(\d+)", line)[1])
        threading.Thread(target=running.stderr.read, daemon=True).start()
        yield running
        running.kill()


@pytest.fixture
def process(weights, tmp_path):
    """A server of its own for a test that ends it; images wait 0.3 s for company."""
    with serve("--weights", f"noise={weights}", "--batch_sizes", "1", "--max_delay", "0.3", cache=tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def port(weights, detector_weights, tmp_path_factory):
    """Of a server of a classifier, "noise", and a detector, "objects", that are ready."""
    models = ("--weights", f"noise={weights}", "--weights", f"objects={detector_weights}")
    with serve(*models, "--features", "--batch_sizes", "4", cache=tmp_path_factory.mktemp("xla")) as running:
        deadline, status = time.monotonic() + 120, 0
        while status != 200:
            assert time.monotonic() < deadline
            connection = http.client.HTTPConnection("127.0.0.1", running.port)
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
            time.sleep(0.1)
        yield running.port
