"""A small ECA-ResNet with random weights: the module, its variables, a weights directory, and what is read of that."""

import jax
import pytest
from small_network import OPTIONS, PREPROCESSING, random_variables

import eca_jax
from eca_jax.models import Preprocessing
from eca_jax.weights.card import Card
from eca_jax.weights.load import read_weights
from eca_jax.weights.store import save_directory


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Where `predict` keeps compiled programs, which would otherwise be the user's own cache."""
    before = jax.config.jax_compilation_cache_dir
    if not before:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="session")
def model():
    return eca_jax.create_model("eca_resnet18", num_classes=4, **OPTIONS)


@pytest.fixture(scope="session")
def variables(model):
    return random_variables(model)


@pytest.fixture(scope="session")
def weights(variables, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w"
    card = Card("eca_resnet18", {"num_classes": 4, **OPTIONS}, Preprocessing.from_json(PREPROCESSING))
    save_directory(path, variables, card)
    return path


@pytest.fixture(scope="session")
def loaded(weights):
    return read_weights(weights)
