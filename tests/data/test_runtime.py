"""TensorFlow beside what else a process imports."""

import subprocess
import sys

import pytest


def test_pytorchs_compiler_is_imported_after_tensorflow():
    pytest.importorskip("triton")  # PyTorch's CUDA build brings it
    pytest.importorskip("torch")
    code = "from eca_jax.data.runtime import tensorflow; tensorflow(); import torch, triton"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
