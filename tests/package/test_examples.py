"""What README.md and docs/ show runs as it stands, with random weights and images."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from small_network import random_variables

import eca_jax
from eca_jax.commands.main import main
from eca_jax.config import load_recipe
from eca_jax.data import OwnBatches, eval_batches, train_batches

REPOSITORY = Path(__file__).parents[2]
PHOTOS = ("cat.jpg", "dog.jpg", "fox.jpg")


def run(file, containing, **names):
    """Runs the one Python example of a file that has these words; returns its names."""
    examples = re.findall(r"```python\n(.*?)```", (REPOSITORY / file).read_text(), re.DOTALL)
    (example,) = [example for example in examples if containing in example]
    names["eca_jax"] = eca_jax  # an example may go on from the one before it
    exec(compile(example, file, "exec"), names)
    return names


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The working directory of an example: three photographs and weights."""
    monkeypatch.chdir(tmp_path)
    model = eca_jax.create_model("eca_resnet18")
    eca_jax.save("eca_resnet18.safetensors", model, random_variables(model, 64))
    for seed, name in enumerate(PHOTOS):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50 + seed, 3), np.uint8)
        Image.fromarray(pixels).save(name)
    return tmp_path


@pytest.mark.slow
def test_the_readmes_five_lines_predict(directory, capsys):
    run("README.md", "Predictor.load")
    assert tuple(line.split()[0] for line in capsys.readouterr().out.splitlines()) == PHOTOS


PAGES = [file.relative_to(REPOSITORY) for file in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_an_example_uses_nothing_that_its_page_does_not_name(page, tmp_path):
    """Pasted from the top of its page on, that is."""
    examples = re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    (tmp_path / "examples.py").write_text("".join(examples))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readmes_models_are_called(directory):
    names = run("README.md", "eca_jax.load")
    assert names["logits"].shape == (2, 1000)
    assert names["model"].num_classes == 10


@pytest.mark.slow
def test_a_head_of_ones_own_learns_on_the_features(directory, capsys):
    names = run("docs/predict.md", "Predictor.load")
    assert tuple(line.split()[0] for line in capsys.readouterr().out.splitlines()) == PHOTOS
    assert names["features"].shape == (3, 512)
    assert [names[c].shape[1] for c in ("c2", "c3", "c4", "c5")] == [56, 28, 14, 7]
    assert names["value"] < 0.8 * np.log(2)  # the head has begun to learn the three labels


def test_an_exported_file_runs_without_the_package(directory):
    assert main(["export", "--model", "eca_resnet18", "--weights", "eca_resnet18.safetensors", "model.npz"]) == 0
    names = run("docs/export.md", "export.deserialize")
    assert names["logits"].shape == (2, 1000)


def test_a_recipe_lies_anywhere(tmp_path):
    (example,) = re.findall(r"```python\n(.*?get_config.*?)```", (REPOSITORY / "docs/extend.md").read_text(), re.DOTALL)
    (tmp_path / "birds.py").write_text(example)
    config = load_recipe(tmp_path / "birds.py")
    assert (config.num_classes, config.batch_size) == (12, 256)


def test_eca_goes_into_linen_nnx_and_functions():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 6)), jnp.float32)
    names = run("docs/extend.md", "class Inception")
    body = names["Inception"]((4, 8, 2, 2))
    y, variables = jax.eval_shape(body.init_with_output, jax.random.key(0), x)
    assert y.shape == (2, 4, 4, 16)
    assert variables["params"]["ECA_0"]["conv"]["kernel"].shape == (3, 1, 1)

    text = (REPOSITORY / "docs/extend.md").read_text()
    (gate,) = re.findall(r"```python\n([^`]*?class SpatialGate.*?)\nregister_attention\(", text, re.DOTALL)
    exec(gate, names)  # whose name other tests register
    model = run("docs/extend.md", "class SpatialThenECA", **names)["model"]
    tree = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.zeros((1, 64, 64, 3)))
    assert tree["params"]["layer4_2"]["attention"]["eca"]["conv"]["kernel"].shape == (7, 1, 1)
    assert "spatial" in tree["batch_stats"]["layer4_2"]["attention"]

    block = run("docs/extend.md", "nnx.bridge", **names)["Block"](6, rngs=nnx.Rngs(0))
    gradients = nnx.grad(lambda block: jnp.sum(block(x) ** 2))(block)
    assert jnp.abs(gradients["eca"]["conv"]["kernel"][...]).max() > 0

    # The function computes what the bridged module does with the same numbers.
    names = run("docs/extend.md", "def eca(", **names)
    taps = block.eca.conv["kernel"][...][:, 0, 0]
    np.testing.assert_allclose(names["eca"](x, taps), block.eca(x), atol=1e-6)
    params = {"kernel": jnp.eye(6), "taps": taps}
    assert jnp.abs(jax.grad(lambda params: jnp.sum(names["block"](params, x)))(params)["taps"]).max() > 0


def test_data_of_ones_own_come_from_grain():
    pytest.importorskip("grain")
    source = OwnBatches("my_data:Colours", run("docs/extend.md", "MapDataset")["Colours"](None))
    settings = dict(batch_size=64, image_size=8, seed=0)
    later, batch = next(train_batches(source, start_step=95, **settings)), next(train_batches(source, **settings))
    assert set(batch["label"]) == {0, 1, 2}
    assert not np.array_equal(later["image"], batch["image"])  # of the second epoch
    evaluated = eval_batches(source, batch_size=64, image_size=8, resize_size=8)
    assert sum(batch["mask"].sum() for batch in evaluated) == 300
