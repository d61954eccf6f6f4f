"""The built wheel, installed away from the checkout, trains, predicts and exports."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from data_fixtures import example_jpeg

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def eca_jax(tmp_path_factory):
    """Runs `eca-jax ARGUMENTS` of a new virtual environment, in a directory of its own.

    What the wheel requires is not downloaded anew: a .pth file adds this interpreter's packages behind the
    environment's. (Lines in their own .pth files, such as an editable install's, do not count then.) That the declared
    requirements are enough is for test_core to say.
    """
    root = tmp_path_factory.mktemp("wheel")
    for name in ("eca_jax", "configs"):  # a copy, since setuptools packs what is left in an old build directory too
        shutil.copytree(REPOSITORY / name, root / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, root / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", root, root / "source"]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = root.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    python = root / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    (site,) = (root / "venv" / "lib").glob("python3*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")

    work = root / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments):
        command = [python.with_name("eca-jax"), *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.work, run.python = work, python
    return run


def test_the_package_is_the_wheels_own(eca_jax):
    where = [eca_jax.python, "-c", "import eca_jax; print(eca_jax.__file__)"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = subprocess.run(where, cwd=eca_jax.work, env=environment, capture_output=True, text=True, check=True).stdout
    assert path.startswith(str(eca_jax.python.parents[1]))
    assert "eca_resnet50" in eca_jax("list").split()


def test_it_trains_a_recipe_by_name_then_predicts_and_exports(eca_jax):
    short = ("--config.num_epochs=1", "--config.schedule.warmup_epochs=0", "--config.batch_size=128")
    eca_jax("train", "quickstart", "--workdir=w", *short)
    lines = [json.loads(line) for line in (eca_jax.work / "w" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["split"] == "validation" and lines[-1]["count"] == 360
    (eca_jax.work / "digit.jpg").write_bytes(example_jpeg(0))
    assert "digit.jpg" in eca_jax("predict", "--weights=w", "digit.jpg")
    eca_jax("export", "--weights=w", "model.npz")
    assert (eca_jax.work / "model.npz").stat().st_size > 1_000_000
