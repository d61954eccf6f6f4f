"""What only looks like weights is called by its name."""

import gzip
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch

from eca_jax.commands.main import main


def foreign(kind, path):
    """A file that is something else."""
    if kind == "TorchScript":
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))
    elif kind == "tar archive":
        with tarfile.open(path, "w") as tar:
            tar.add(__file__, "weights.py")
    elif kind == "gzip":
        path.write_bytes(gzip.compress(b"weights"))
    elif kind == "zip archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inner/model.pth", b"x")
    elif kind == "quantised":
        weight = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
        torch.save({"weight": weight}, path)
    elif kind == "NumPy archive":
        with path.open("wb") as file:
            np.savez(file, a=np.ones(3))
    else:
        path.write_bytes(
            {
                "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n",
                "HTML page": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
                "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
                "ONNX": b"\x08\x08\x12\x07pytorch\x1a\x05" + bytes(100),
                "JSON": b'{"message": "Not Found"}',
            }[kind]
        )


@pytest.mark.parametrize(
    "kind",
    (
        *("TorchScript", "tar archive", "gzip", "zip archive", "NumPy archive"),
        *("Git LFS pointer", "HTML page", "HDF5", "ONNX", "JSON", "quantised"),
    ),
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_weights_file_is_called_by_its_name(kind, name, tmp_path, capsys):
    foreign(kind, tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["predict", "--model", "resnet18", "--weights", str(tmp_path / name), "a.jpg"]) == 2
    err = capsys.readouterr().err
    assert kind in err and "damaged" not in err and err.count("\n") == 1
