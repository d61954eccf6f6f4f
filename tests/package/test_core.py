"""What `pip install eca-jax` brings is enough to predict and to export; training's packages are not imported."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from small_network import random_variables

import eca_jax

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
# Flax requires them; they are training's, and seconds to import.
UNUSED = {"optax", "orbax-checkpoint", "tensorstore"}

# Runs what is on standard input as if the modules named in the arguments were not installed.
WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)  # packages' metadata is found through it too

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)

absent = set(sys.argv[1:])
sys.meta_path = [Without(finder) for finder in sys.meta_path]
exec(sys.stdin.read())
"""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def with_requirements(requirements):
    """The distributions that installing `requirements` brings here, by their canonical names."""
    found, pending = set(), [Requirement(text) for text in requirements]
    while pending:
        requirement = pending.pop()
        name = canonical(requirement.name)
        for text in metadata.requires(name) or []:
            inner = Requirement(text)
            asked = {"", *requirement.extras}
            wanted = inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in asked)
            if wanted and canonical(inner.name) not in found | UNUSED:
                pending.append(inner)
        found.add(name)
    return found


@pytest.fixture(scope="module")
def outside():
    """Top-level modules of everything installed that the core does not bring."""
    core = with_requirements(tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]) | {"eca-jax"}
    homes = metadata.packages_distributions()
    names = {name for name, owners in homes.items() if not core & {canonical(owner) for owner in owners}}
    assert {"optax", "orbax", "tensorflow", "matplotlib", "torch"} <= names
    return sorted(names)


def run(code, outside, directory):
    """Runs Python code in a directory; the modules `outside` are not found."""
    environment = os.environ | {"PYTHONPATH": str(PYPROJECT.parent)}
    command = [sys.executable, "-c", WITHOUT, *outside]
    return subprocess.run(command, input=code, cwd=directory, env=environment, capture_output=True, text=True)


def test_prediction_and_export_need_the_core_alone(outside, tmp_path):
    variables = random_variables(eca_jax.create_model("eca_resnet18", num_classes=3))
    eca_jax.save(tmp_path / "w.safetensors", "eca_resnet18", variables)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "dog.png")
    code = """
from eca_jax.commands.main import main
weights = ["--weights", "w.safetensors"]
assert main(["predict", *weights, "dog.png"]) == 0
assert main(["export", *weights, "model.npz"]) == 0
import eca_jax, numpy as np
print(eca_jax.load_exported("model.npz")(np.zeros((1, 224, 224, 3), np.uint8)).shape)
"""
    done = run(code, outside, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dog.png" in done.stdout and done.stdout.endswith("(1, 3)\n")


def test_every_import_of_the_package_is_declared():
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [text for name in ("train", "torch", "serve", "completion") for text in extras[name]]
    declared = with_requirements([*project["dependencies"], *chosen])
    peers = {"torchvision", "timm", "libtpu"}  # of `verify` and `bench`; the compiler that jax[tpu] brings
    peers |= {"wandb", "mlflow"} & set(extras)  # extras of their names, which need not be installed here
    homes = metadata.packages_distributions()
    for path in sorted((PYPROJECT.parent / "eca_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"eca_jax"} - peers:
                assert declared & {canonical(owner) for owner in homes.get(name, ())}, f"{path} imports {name}"


def test_the_front_door_imports_nothing_of_training():
    code = "import sys, eca_jax; eca_jax.Predictor; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "eca_jax" in loaded
    assert not {"optax", "orbax", "tensorflow", "matplotlib", "torch", "clu"} & set(loaded)


def test_what_lies_outside_the_core_is_not_found(outside, tmp_path):
    done = run("import optax", outside, tmp_path)
    assert done.returncode == 1 and "No module named 'optax'" in done.stderr
