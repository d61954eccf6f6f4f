"""One file with model and weights: the same answers without this package, and no answer from a damaged file."""

import dataclasses
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eca_jax
from eca_jax.commands import main as cli
from eca_jax.inference.export import export

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
# Nothing of this project, nor what it is built on, can be imported by the process that runs the exported file.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"eca_jax", "flax", "optax", "orbax", "PIL", "torch", "tensorflow", "safetensors"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.npz"
    assert cli.main(["export", "--weights", str(weights), str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def normalized(images):
    return (images / np.float32(255) - np.float32(0.4)) / np.float32(0.3)


@pytest.fixture(scope="module")
def expected(model, variables, normalized):
    return np.asarray(jax.jit(model.apply)(variables, normalized))


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_docs_lines_run_it_where_nothing_else_is_installed(exported, images, expected, tmp_path):
    (lines,) = re.findall(r"```python\n(import json[^`]*deserialize[^`]*)```", DOCS.read_text())
    np.save(tmp_path / "images.npy", images)
    script = f"""{BLOCKER}
{lines}
assert metadata["platforms"] == list(program.platforms) == ["cpu", "cuda", "tpu"], program.platforms
assert metadata["model"] == "eca_resnet18" and metadata["preprocessing"]["image_size"] == 32
images = np.load("images.npy")
np.savez("logits.npz", *[jax.jit(program.call)(weights, images[:n]) for n in (1, 3, 17)])
"""
    (tmp_path / "model.npz").write_bytes(exported.read_bytes())
    command = [sys.executable, "-I", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "logits.npz") as logits:
        for found in logits.values():
            assert_same(found, expected[: len(found)])


def test_loaded_it_answers_as_the_model_does_and_refuses_other_images(exported, images, expected):
    model = eca_jax.load_exported(exported)
    assert_same(model(images[:3]), expected[:3])
    assert model.metadata["versions"]["jax"] == jax.__version__
    assert model.metadata["class_names"] is None
    for bad in (images.astype(np.float32), images[0], images[:, :16]):
        with pytest.raises(ValueError, match="must be uint8"):
            model(bad)


def test_normalised_images_one_platform_and_bfloat16(loaded, normalized, expected, tmp_path):
    half = loaded.model.clone(dtype=jnp.bfloat16)
    named = dataclasses.replace(loaded, model=half).with_class_names(["ant", "bee", "cat", "dog"])
    export(tmp_path / "m", named, input="float32", platforms=["cpu"])
    model = eca_jax.load_exported(tmp_path / "m")
    assert model.metadata["class_names"] == ["ant", "bee", "cat", "dog"]
    assert model.metadata["dtype"] == "bfloat16"
    difference = np.abs(model(normalized[:3]) - expected[:3]).max() / np.abs(expected).max()
    assert 0 < difference < 0.05


def test_a_damaged_file_is_refused(exported, tmp_path):
    content = exported.read_bytes()
    damaged = tmp_path / "damaged.npz"
    for kept in (0, 100, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"damaged\.npz is truncated or damaged"):
            eca_jax.load_exported(damaged)
    with zipfile.ZipFile(exported) as file:
        members = sorted(file.infolist(), key=lambda member: member.file_size)[-7:]
    for member in members:  # between them lie times, which may be any
        place = member.header_offset + member.compress_size
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"damaged\.npz (is truncated or damaged|was changed)"):
            eca_jax.load_exported(damaged)
    with pytest.raises(FileNotFoundError, match="absent"):
        eca_jax.load_exported(tmp_path / "absent")


@pytest.mark.parametrize("changed", ["params/fc/bias", "metadata"])
def test_a_changed_file_is_refused(exported, changed, tmp_path):
    """An archive in good order, with one of its arrays exchanged."""
    with np.load(exported) as file:
        arrays = dict(file)
    is_text = changed == "metadata"
    arrays[changed] = np.array(str(arrays[changed]).replace("eca_", "se_")) if is_text else arrays[changed] + 1
    with open(tmp_path / "changed", "wb") as file:
        np.savez(file, **arrays)
    assert zipfile.ZipFile(tmp_path / "changed").testzip() is None
    with pytest.raises(ValueError, match="SHA-256"):
        eca_jax.load_exported(tmp_path / "changed")


def test_a_saved_model_answers_as_the_model_does(weights, images, expected, tmp_path, capsys):
    from eca_jax.data.runtime import tensorflow

    path = tmp_path / "saved"
    arguments = ["export", "--weights", str(weights), "--saved_model", str(path)]
    assert cli.main(arguments) == 0
    tf = tensorflow()
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    for count in (1, 3):
        assert_same(serve(images=tf.constant(images[:count]))["logits"].numpy(), expected[:count])
    assert json.loads((path / "assets.extra" / "metadata.json").read_text())["model"] == "eca_resnet18"
    assert cli.main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
