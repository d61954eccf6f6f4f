"""The reader of PyTorch's files against PyTorch, and against files that time has gnawed at."""

import collections
import pathlib
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eca_jax.weights.torch.find import find
from eca_jax.weights.torch.reader import read_checkpoint

MODULE = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
BASE = torch.arange(12.0)
TENSORS = {
    **MODULE.state_dict(),
    "view": BASE[2:8:2],
    "transposed": BASE.reshape(3, 4).T,
    "expanded": torch.ones(1, 3).expand(2, 3),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(3),
    "bool": torch.tensor([True, False]),
    "complex64": torch.tensor([1 + 2j]),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
}
ROUNDED = {"float16": torch.half, "bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn}


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_what_pytorch_reads(zipped, tmp_path):
    rounded = {name: torch.tensor([0.5, 1.25, -3]).to(dtype) for name, dtype in ROUNDED.items()}
    tensors = TENSORS | rounded
    torch.save(tensors, tmp_path / "t.pth", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "t.pth")
    assert list(found) == list(tensors)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy(), err_msg=name, strict=True)
    for name, tensor in rounded.items():
        assert found[name].dtype.name == name
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.float().numpy())


def test_safetensors_are_what_its_library_reads(tmp_path):
    tensors = {name: tensor.detach().contiguous() for name, tensor in MODULE.state_dict().items()}
    tensors |= {"half": torch.ones(3).half(), "bfloat16": torch.ones(3).bfloat16(), "empty": torch.zeros(0, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "t.safetensors", metadata={"format": "pt"})
    found = read_checkpoint(tmp_path / "t.safetensors")
    assert found.metadata == {"format": "pt"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.float().numpy())


def content():
    beside = {"epoch": 3, "history": np.arange(5.0), "best": np.float64(1), "path": pathlib.Path("/x")}
    return {"state_dict": MODULE.state_dict(), **beside, "counts": collections.defaultdict(list)}


def gnaw(original, random):
    """The bytes of a file with a part cut off, flipped, put in or taken out."""
    damaged = bytearray(original)
    place = random.integers(len(damaged))
    match random.integers(4):
        case 0:
            del damaged[place:]
        case 1:
            damaged[place] ^= 1 << random.integers(8)
        case 2:
            damaged[place:place] = random.bytes(random.integers(1, 20))
        case 3:
            del damaged[place : place + random.integers(1, 20)]
    return bytes(damaged)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_one_line_and_never_a_traceback(form, tmp_path):
    path, random = tmp_path / "w.pth", np.random.default_rng(0)
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
        safetensors.torch.save_file(MODULE.state_dict(), path)
    else:
        torch.save(content(), path, _use_new_zipfile_serialization=form == "zip")
    original, refused = path.read_bytes(), 0
    for _ in range(400):
        path.write_bytes(gnaw(original, random))
        try:
            find(read_checkpoint(path), set(MODULE.state_dict()))
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 200


def test_a_flipped_bit_among_the_numbers_is_found(tmp_path):
    torch.save(TENSORS, tmp_path / "t.pth")
    original = (tmp_path / "t.pth").read_bytes()
    place = original.index(struct.pack("<f", 7.0)) + 2
    (tmp_path / "t.pth").write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
    with pytest.raises(ValueError, match="is damaged or truncated"):
        read_checkpoint(tmp_path / "t.pth")


def test_a_tensor_cannot_look_beyond_its_storage(tmp_path):
    """Sizes and strides come from the file; one that lies would read memory that is not the file's."""
    torch.save({"a": torch.ones(3), "b": torch.ones(2, 2)}, tmp_path / "t.pth", _use_new_zipfile_serialization=False)
    original = (tmp_path / "t.pth").read_bytes()
    place = original.index(b"K\x02K\x02\x86")  # the size (2, 2), as a pickle has it
    (tmp_path / "t.pth").write_bytes(original[:place] + b"K\x02K\xff\x86" + original[place + 5 :])
    with pytest.raises(ValueError, match="larger than its storage"):
        read_checkpoint(tmp_path / "t.pth")


NAMES = st.text("abcdefghij_", min_size=1, max_size=6)
HARMLESS = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.lists(st.integers()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    entries=st.lists(NAMES, max_size=3),
    prefix=st.lists(NAMES, max_size=3),
    beside=st.dictionaries(NAMES, HARMLESS, max_size=3),
    suffix=st.sampled_from([".pth", ".pth.tar", ".pt", ".bin", ".ckpt", ".safetensors", ".txt", ""]),
    zipped=st.booleans(),
)
def test_an_intact_file_is_read_whatever_its_name_and_nesting(entries, prefix, beside, suffix, zipped):
    prefix = "".join(f"{part}." for part in prefix)
    content = {prefix + key: tensor for key, tensor in MODULE.state_dict().items()}
    for entry in entries:
        content = beside | {entry: content}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"w{suffix}"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        tensors = find(read_checkpoint(path), set(MODULE.state_dict())).tensors
    assert tensors.keys() == MODULE.state_dict().keys()
    for key, tensor in MODULE.state_dict().items():
        np.testing.assert_array_equal(tensors[key], tensor.numpy(), err_msg=key)
