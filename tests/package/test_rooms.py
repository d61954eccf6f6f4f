"""`make lint` keeps the rooms apart: an import that the contract in pyproject.toml forbids is found and named."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("room", "line", "found"),
    [
        (
            "kernels/program.py",
            "def _f():\n    from eca_jax.layers import conv\n    return conv\n",
            "eca_jax.kernels.program -> eca_jax.layers",
        ),
        ("tpu/hlo.py", "import eca_jax.analysis.counts\n", "eca_jax.tpu.hlo -> eca_jax.analysis.counts"),
        ("data/order.py", "import eca_jax\n", "eca_jax.data.order -> eca_jax"),
        ("cellar.py", "", "cellar"),
    ],
    ids=["upwards, in a function", "sideways", "through the front door", "a room without a place"],
)
def test_a_forbidden_import_is_named(room, line, found, tmp_path):
    shutil.copytree(REPOSITORY / "eca_jax", tmp_path / "eca_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with open(tmp_path / "eca_jax" / room, "a") as file:
        file.write(line)
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache", "--no-logo"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert found in done.stdout
