"""What a file that holds no PyTorch weights is, by its first bytes: for messages that call it by its name."""

import os
import re
import struct
from collections.abc import Collection

HEAD = 512  # bytes that tell the kind
# No header of a .safetensors file is longer, by its own specification.
_LONGEST_HEADER = 100_000_000

_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "compressed with gzip: decompress it first"),
    (b"BZh", "compressed with bzip2: decompress it first"),
    (b"\xfd7zXZ\x00", "compressed with xz: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch that with `git lfs pull`"),
)
_TEXTS = (
    (("<!doctype html", "<html", "<head"), "an HTML page, not the file that was to be downloaded"),
    (("<?xml",), "an XML document, such as a server answers with instead of a file"),
    (("{", "["), "a JSON document"),
)

# What begins like nothing in particular.
_NAMES = (
    (r"\.msgpack$", "a msgpack file, such as Flax writes"),
    (r"\.pb$", "a TensorFlow graph"),
    (r"\.data-\d+-of-\d+$|\.index$", "a part of a TensorFlow checkpoint"),
    (r"\.onnx$", "an ONNX model"),
)


class ForeignError(Exception):
    """A file is something else; its argument says what, as the end of a sentence."""


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as `.safetensors` does: the length of a header in 8 bytes, then the header, JSON."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= _LONGEST_HEADER


def check_file(head: bytes, name: str) -> None:
    """Raises ForeignError where the first `HEAD` bytes of a file, or its name, are those of a known kind."""
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise ForeignError(what)
    if head[257:262] == b"ustar":
        raise ForeignError("a tar archive: unpack it first (in .pth.tar the tar is but a name)")
    if head[4:8] == b"TFL3":
        raise ForeignError("a TensorFlow Lite model")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginnings, what in _TEXTS:
        if text.startswith(tuple(beginning.encode() for beginning in beginnings)):
            raise ForeignError(what)
    # ONNX is a protocol buffer: field 1, the version, is a small number, and the name of who wrote it follows.
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        raise ForeignError("an ONNX model")
    for pattern, what in _NAMES:
        if re.search(pattern, name, re.IGNORECASE) and not head.startswith(b"\x80"):
            raise ForeignError(what)


def check_zip(names: Collection[str]) -> None:
    """Raises ForeignError where a zip archive with files of these names is not one that `torch.save` wrote."""
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise ForeignError("a TorchScript program: save its state_dict() with torch.save")
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        raise ForeignError("a program of torch.export: save the model's state_dict() with torch.save")
    if {"model.weights.h5", "config.json"} <= set(names):
        raise ForeignError("a Keras model")
    if any(os.path.basename(name) == "data.pkl" for name in names):
        return
    if {"program.npy", "metadata.npy"} <= set(names):
        raise ForeignError("an exported model, which eca_jax.load_exported reads")
    if names and all(name.endswith(".npy") for name in names):
        raise ForeignError("a NumPy archive")
    weights = [name for name in names if name.endswith((".pth", ".pt", ".safetensors", ".tar", ".bin", ".ckpt"))]
    raise ForeignError(f"a zip archive: unpack it first (it holds {weights[0]})" if weights else "a zip archive")
