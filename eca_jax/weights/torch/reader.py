"""Files of PyTorch and of safetensors, read without PyTorch and without running what is in them.

What a file is shows in its first bytes, not in its name. `torch.save` writes a zip archive, since PyTorch 1.6: a pickle
`data.pkl` that names storages, and the numbers of each storage in a file of its own. Before, it wrote pickles one
after the other, and the numbers behind them.
"""

import io
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any, cast

import ml_dtypes
import numpy as np
from etils import epath

from eca_jax.weights.card import CARD_KEY, Card
from eca_jax.weights.torch.kinds import HEAD, ForeignError, check_file, check_zip, is_safetensors
from eca_jax.weights.torch.pickles import RefusedError, StateDict, Storage, Unpickler

# The first pickle of a legacy file.
_MAGIC = 0x1950A86A20F9469CFC6C
_SAFETENSORS = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "C64": np.complex64},
}


def read_checkpoint(path: str | os.PathLike) -> Any:
    """The content of a file: plain containers with NumPy arrays.

    A `.safetensors` file gives a dictionary of arrays whose attribute `metadata` holds the text entries beside them.

    Raises:
      ValueError: damaged, something else, or a pickle that names what only running code could make; one line.
    """
    path = epath.Path(path)
    with path.open("rb") as file:
        try:
            return _content(cast(IO[bytes], file), path)
        except ForeignError as error:
            raise ValueError(f"{path} is {error}") from None
        except RefusedError as error:
            raise ValueError(
                f"{path} is refused: reading it would run code ({error}); only tensors, plain containers and a few "
                "harmless objects are read, such as a model's state_dict()"
            ) from None
        except Exception as error:  # zipfile, zlib, pickle and NumPy raise many kinds for damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} is damaged or truncated, or no PyTorch file ({reason[:120]})") from None


def _content(file: IO[bytes], path: epath.Path) -> Any:
    head = file.read(HEAD)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(file) as archive:
            check_zip(archive.namelist())
            return _Archive(archive, file).load()
    if is_safetensors(head):
        return _safetensors(file.read())
    check_file(head, path.name)
    if head.startswith(b"\x80"):  # before the suffix, which may be wrong
        return _pickles(file, path.stat().length)
    if path.suffix.lower() == ".safetensors":
        return _safetensors(file.read())
    raise ValueError(f"it begins with {head[:20]!r}" if head else "it is empty")


def _safetensors(content: bytes) -> StateDict:
    """The length of a header in 8 bytes, the header, which is JSON, and the numbers."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    numbers = memoryview(content)[8 + length :]
    tensors = StateDict()
    tensors.metadata = header.pop("__metadata__", {})
    for key, described in header.items():
        begin, end = described["data_offsets"]
        if not 0 <= begin <= end <= len(numbers):
            raise ValueError(f"{key} is not in the file")
        tensors[key] = np.frombuffer(numbers[begin:end], _SAFETENSORS[described["dtype"]]).reshape(described["shape"])
    return tensors


class _Archive:
    """A zip archive that `torch.save` wrote."""

    def __init__(self, archive: zipfile.ZipFile, file: IO[bytes]):
        self._archive, self._file = archive, file
        self._members = {
            name.rpartition("data.pkl")[0]: name for name in archive.namelist() if name.endswith("data.pkl")
        }
        self._root = min(self._members, key=len)
        self._storages: dict[str, Storage] = {}
        self._checked = self._has_checksums()
        self._swapped = self._little_endian() != (sys.byteorder == "little")

    def load(self) -> Any:
        pickled = io.BytesIO(self._read("data.pkl"))
        return Unpickler(pickled, self._storage).load()

    def _storage(self, dtype: np.dtype, key: str, count: int) -> Storage:
        if key not in self._storages:
            content = self._read(f"data/{key}")
            if len(content) < count * dtype.itemsize:
                raise ValueError(f"storage {key} is shorter than it should be")
            self._storages[key] = Storage(np.frombuffer(content, np.uint8))
        numbers = self._storages[key].numbers[: count * dtype.itemsize].view(dtype)
        return Storage(numbers.byteswap() if self._swapped else numbers)

    def _read(self, name: str) -> bytes:
        member = self._archive.getinfo(self._root + name)
        if self._checked or member.compress_type != zipfile.ZIP_STORED:
            return self._archive.read(member)
        return self._raw(member)

    def _raw(self, member: zipfile.ZipInfo) -> bytes:
        """The stored bytes, whatever their checksum is."""
        self._file.seek(member.header_offset)
        header = self._file.read(30)
        self._file.seek(sum(struct.unpack("<HH", header[26:30])), io.SEEK_CUR)
        return self._file.read(member.file_size)

    def _has_checksums(self) -> bool:
        """PyTorch can be told to save without (`set_crc32_options`): then all of them are wrong, the version's too."""
        try:
            member = self._archive.getinfo(f"{self._root}version")
        except KeyError:
            return True
        return zlib.crc32(self._raw(member)) == member.CRC

    def _little_endian(self) -> bool:
        try:
            return self._read("byteorder") != b"big"
        except KeyError:  # before PyTorch 2.1, where a file is in the order of the machine; big ones were rare
            return True


def _pickles(file: IO[bytes], size: int) -> Any:
    """The content of a file of PyTorch before 1.6, or of any pickle of containers with NumPy arrays."""
    try:
        first = Unpickler(file).load()
    except RefusedError as error:
        raise ForeignError(f"no PyTorch file but another pickle, and reading it would run code ({error})") from None
    return _Legacy(file, size).load() if first == _MAGIC else first


class _Legacy:
    """The rest of a legacy file: its version, the machine, the content, the storages' keys and their numbers."""

    def __init__(self, file: IO[bytes], size: int):
        self._file, self._size = file, size
        self._storages: dict[str, Storage] = {}

    def load(self) -> Any:
        Unpickler(self._file).load()
        machine = Unpickler(self._file).load()
        content = Unpickler(self._file, self._storage).load()
        for key in Unpickler(self._file).load():
            numbers = self._storages[key].numbers
            (count,) = struct.unpack("<q", self._file.read(8))
            stored = self._file.read(numbers.nbytes)
            if count != len(numbers) or len(stored) != numbers.nbytes:
                raise ValueError(f"storage {key} is shorter than it should be")
            numbers.view(np.uint8)[:] = np.frombuffer(stored, np.uint8)
            if machine["little_endian"] != (sys.byteorder == "little"):
                numbers.byteswap(inplace=True)
        return content

    def _storage(self, dtype: np.dtype, key: str, count: int) -> Storage:
        if key not in self._storages:
            if not 0 <= count * dtype.itemsize <= self._size:
                raise ValueError(f"storage {key} is larger than the file")
            self._storages[key] = Storage(np.zeros(count, dtype))
        return self._storages[key]


def embedded_card(content: Any) -> Card | None:
    """What `eca_jax.save` put into a file beside the tensors; None where it did not.

    Raises:
      ValueError: it is damaged.
    """
    nested = content.get("state_dict") if isinstance(content, Mapping) else None  # of the release's form
    for holder in (content, nested):
        if isinstance(holder, StateDict):
            beside = holder.metadata if isinstance(holder.metadata, Mapping) else vars(holder)
            text = beside.get(CARD_KEY)
            if text:
                try:
                    return Card.from_json(json.loads(text))
                except (ValueError, TypeError) as error:
                    raise ValueError(f"has a damaged description of its model ({error})") from None
    return None
