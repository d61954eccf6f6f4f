"""Files and commands: formats, the release's checkpoints both ways, refusals, and what needs no PyTorch."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from flax.traverse_util import flatten_dict
from originals import images, random_original, to_nchw

import eca_jax
from eca_jax.commands.main import main
from eca_jax.convert import from_torch
from eca_jax.weights.torch.reader import read_checkpoint

NAME = "eca_resnet18"
OPTIONS = {"num_classes": 10, "kernel_sizes": (3, 1, 5, 9)}


@pytest.fixture(scope="module")
def module():
    return random_original(NAME, **OPTIONS)


@pytest.fixture
def release_file(module, tmp_path):
    """A checkpoint as the release's main.py saves it: under DataParallel, with a tensor and a NumPy accuracy."""
    path = tmp_path / "checkpoint.pth.tar"
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    state_dict = torch.nn.DataParallel(module).state_dict()
    content = {"epoch": 7, "arch": NAME, "state_dict": state_dict, "best_prec1": torch.tensor(70.5)}
    torch.save({**content, "optimizer": optimizer.state_dict(), "best_prec5": np.float64(89.5)}, path)
    return path


def convert(*arguments) -> int:
    return main(["convert", "--model", NAME, *map(str, arguments)])


def assert_same(state_dict, module):
    expected = module.state_dict()
    assert state_dict.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(np.asarray(state_dict[key]), tensor.numpy(), err_msg=key, strict=True)


def test_the_released_format_comes_back_bit_by_bit(release_file, module, tmp_path, capsys):
    """DataParallel's prefix, kernel sizes inferred; by way of a weights directory to every kind of file."""
    assert convert(release_file, tmp_path / "weights") == 0
    assert "kernel_sizes=(3, 1, 5, 9)" in capsys.readouterr().out
    for name in ("bare.pth", "bare.pt", "tensors.safetensors"):
        assert convert(tmp_path / "weights", tmp_path / name) == 0
        tensors = read_checkpoint(tmp_path / name)
        assert_same(tensors, module)
        fresh = random_original(NAME, seed=1, **OPTIONS)
        fresh.load_state_dict({key: torch.as_tensor(np.asarray(t)) for key, t in tensors.items()}, strict=True)


def test_the_release_form_is_what_its_script_resumes_from(release_file, module, tmp_path):
    """main.py's --resume: epoch, best_prec1, state_dict into a DataParallel model, optimizer into SGD."""
    assert convert(release_file, tmp_path / "out.pth.tar") == 0
    checkpoint = torch.load(tmp_path / "out.pth.tar", weights_only=True)
    assert set(checkpoint) == {"epoch", "arch", "state_dict", "best_prec1", "optimizer"}
    assert checkpoint["arch"] == NAME
    fresh = torch.nn.DataParallel(random_original(NAME, seed=1, **OPTIONS))
    fresh.load_state_dict(checkpoint["state_dict"])
    assert_same(fresh.module.state_dict(), module)
    optimizer = torch.optim.SGD(fresh.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    optimizer.load_state_dict(checkpoint["optimizer"])


def test_load_reads_every_kind_and_gives_the_originals_logits(release_file, module, tmp_path):
    convert(release_file, tmp_path / "weights")
    convert(release_file, tmp_path / "tensors.safetensors")
    batch = images(64)
    with torch.inference_mode():
        expected = module(to_nchw(batch)).numpy()
    for name, path in (
        (None, release_file),
        (None, tmp_path / "weights"),
        (NAME, tmp_path / "tensors.safetensors"),
    ):
        model, variables = eca_jax.load(path, name)
        assert (model.num_classes, model.kernel_sizes) == (10, (3, 1, 5, 9))
        assert set(variables) == {"params", "batch_stats"}
        np.testing.assert_allclose(model.apply(variables, batch), expected, atol=1e-4 * np.abs(expected).max())


def test_load_without_classifier(release_file, tmp_path):
    convert(release_file, tmp_path / "weights")
    for path in (release_file, tmp_path / "weights"):
        model, variables = eca_jax.load(path, NAME, num_classes=0)
        assert "fc" not in variables["params"]
        assert model.apply(variables, images(32)).shape == (2, 512)


def test_the_kind_of_state_dict_does_not_matter(module, tmp_path):
    """Bare, under another key, in PyTorch's format before 1.6, in bfloat16."""
    state_dict = module.state_dict()
    torch.save(state_dict, tmp_path / "bare.pth")
    torch.save({"model": state_dict, "epoch": 3}, tmp_path / "model.pth")
    torch.save(state_dict, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state_dict, tmp_path / "model.safetensors")
    expected = flatten_dict(from_torch(state_dict, NAME))
    for name in ("bare.pth", "model.pth", "legacy.pth", "model.safetensors"):
        _, variables = eca_jax.load(tmp_path / name, NAME)
        for path, value in flatten_dict(variables).items():
            np.testing.assert_array_equal(value, expected[path], strict=True)


def test_bfloat16_needs_no_torch_in_safetensors(module, tmp_path, capsys):
    rounded = {key: t.bfloat16() if t.is_floating_point() else t for key, t in module.state_dict().items()}
    safetensors.torch.save_file(rounded, tmp_path / "half.safetensors")
    assert convert(tmp_path / "half.safetensors", tmp_path / "weights") == 0
    assert "bfloat16 tensors become float32" in capsys.readouterr().err
    _, variables = eca_jax.load(tmp_path / "weights")
    np.testing.assert_array_equal(variables["params"]["fc"]["kernel"], rounded["fc.weight"].float().numpy().T)


BAD_FILES = (
    *("missing", "unexpected", "misshapen", "another architecture"),
    *("code", "plain pickle", "new pickle", "no state dict"),
    *("not there", "text", "empty", "zip", "legacy", "safetensors"),
)


class Command:
    """Unpickling this would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def _damaged(kind, module, directory):
    """A bad file of a kind, and what its error says."""
    state_dict, path = dict(module.state_dict()), directory / "bad.pth"
    if kind == "missing":
        del state_dict["layer2.0.bn1.weight"]
        torch.save(state_dict, path)
        return path, "1 missing (layer2.0.bn1.weight)"
    if kind == "unexpected":
        torch.save(state_dict | {"layer5.weight": torch.ones(1)}, path)
        return path, "1 unexpected (layer5.weight)"
    if kind == "misshapen":
        torch.save(state_dict | {"fc.bias": torch.ones(11)}, path)
        return path, "fc.bias is (11,) and should be (10,)"
    if kind == "another architecture":
        torch.save(random_original("mobilenet_v2").state_dict(), path)
        return path, "they look like another model's"
    if kind == "code":
        torch.save({"state_dict": state_dict, "args": Command(directory / "ran")}, path)
        return path, "would run code"
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(Command(directory / "ran"), protocol=2))
        return path, "would run code"
    if kind == "new pickle":
        path.write_bytes(pickle.dumps(Command(directory / "ran")))
        return path, "no PyTorch file"
    if kind == "no state dict":
        torch.save({"epoch": 3, "lr": 0.1}, path)
        return path, "holds no state dict but entries epoch, lr"
    if kind == "not there":
        return path, "there is no file or directory"
    if kind == "text":
        path.write_text("404: Not Found")
        return path, "is damaged or truncated"
    if kind == "empty":
        path.touch()
        return path, "is damaged or truncated"
    path = directory / {"zip": "bad.pth", "legacy": "bad.pth", "safetensors": "bad.safetensors"}[kind]
    if kind == "safetensors":
        safetensors.torch.save_file(state_dict, path)
    else:
        torch.save(state_dict, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path, "is damaged"


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize("destination", ["weights", "out.pth"])
def test_a_bad_file_gives_one_line_and_no_output(kind, destination, module, tmp_path, capsys):
    source, message = _damaged(kind, module, tmp_path)
    (tmp_path / "out").mkdir()
    assert convert(source, tmp_path / "out" / destination) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert captured.out == ""
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "ran").exists()


def test_a_failed_write_leaves_the_old_file(module, tmp_path, monkeypatch):
    torch.save(module.state_dict(), tmp_path / "in.pth")
    (tmp_path / "out.pth").write_text("old")

    def fail(content, path):
        path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    assert convert(tmp_path / "in.pth", tmp_path / "out.pth") == 2
    assert (tmp_path / "out.pth").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth", "out.pth"]


def test_a_directory_of_another_model_is_refused(release_file, tmp_path, capsys):
    convert(release_file, tmp_path / "weights")
    assert main(["convert", "--model", "eca_resnet34", str(tmp_path / "weights"), str(tmp_path / "x.pth")]) == 2
    assert "holds eca_resnet18, not eca_resnet34" in capsys.readouterr().err


def test_a_weights_directory_says_what_it_holds(release_file, tmp_path):
    convert(release_file, tmp_path / "weights")
    meta = json.loads((tmp_path / "weights" / "config.json").read_text())
    assert meta["model"] == NAME
    assert meta["num_classes"] == 10
    assert meta["overrides"] == {"kernel_sizes": [3, 1, 5, 9]}
    assert meta["preprocessing"]["image_size"] == 224


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it raises ImportError, as where it is not installed
from eca_jax.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_reading_and_safetensors_need_no_torch(release_file, module, tmp_path):
    back = tmp_path / "back.safetensors"
    for paths in ((release_file, tmp_path / "weights"), (tmp_path / "weights", back)):
        command = [sys.executable, "-c", WITHOUT_TORCH, "convert", "--model", NAME, *map(str, paths)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert_same(read_checkpoint(back), module)


def test_without_torch_writing_other_files_says_what_is_missing(release_file, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, "convert", str(release_file), str(tmp_path / "w.pth")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "needs PyTorch, which is not installed: pip install torch" in done.stderr
    assert not (tmp_path / "w.pth").exists()
