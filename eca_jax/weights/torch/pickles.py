"""Reading pickles without running what is in them: tensors, containers and harmless objects, or a refusal.

A pickle is a program that may call anything by its name. Here every name is looked up in a table of functions of this
file and of a few classes that hold data alone; any other name ends the reading, so that nothing is ever imported.
Tensors come out as NumPy arrays. PyTorch is not needed.
"""

import argparse
import collections
import datetime
import pathlib
import pickle
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import ml_dtypes
import numpy as np

from eca_jax.weights.torch.kinds import ForeignError


class RefusedError(Exception):
    """A pickle names what only running code could make; its argument is the name."""


class Storage:
    """The numbers that tensors are views of.

    Attributes:
      numbers: one-dimensional array; a legacy file fills it after the pickle is read.
    """

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers


class StateDict(dict[Any, Any]):
    """An OrderedDict, which in PyTorch may have attributes, or the tensors of a .safetensors file.

    Attributes:
      metadata: of a .safetensors file, the texts beside the tensors.
    """

    metadata: Mapping[str, str] | None = None


class Array:
    """A NumPy array while its pickle is read; `np.asarray` makes it one."""

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, content = state
        self._fill(content, dtype, shape, "F" if fortran else "C")

    @classmethod
    def from_buffer(cls, content: Any, dtype: Any, shape: Any, order: str) -> "Array":
        array = cls()
        array._fill(content, dtype, shape, order)
        return array

    def _fill(self, content: Any, dtype: Any, shape: Any, order: str) -> None:
        if isinstance(content, str | bytes | bytearray) and isinstance(dtype, Dtype):
            flat = np.frombuffer(_bytes(content), dtype.dtype)
            self.value = flat.reshape(tuple(shape), order="F" if order == "F" else "C")

    @property
    def shape(self) -> tuple[int, ...]:
        """Raises AttributeError for an array of objects, which is no tensor."""
        if self.value is None:
            raise AttributeError("an array of objects")
        return self.value.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.value is None:
            raise TypeError("an array of objects")
        return self.value if dtype is None else self.value.astype(dtype)


class Dtype:
    """A NumPy dtype while its pickle is read."""

    def __init__(self, code: str, *_: Any):
        self._code = _text(code)
        self._order = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self._order = _text(state[1]).replace("|", "=")

    @property
    def dtype(self) -> np.dtype:
        dtype = np.dtype(self._code)
        return dtype.newbyteorder(">") if self._order == ">" else dtype


def _bytes(content: Any) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _text(content: Any) -> str:
    return content.decode("latin1") if isinstance(content, bytes) else str(content)


def _numpy_scalar(dtype: Dtype, content: Any = None) -> Any:
    return np.frombuffer(_bytes(content), dtype.dtype)[0] if isinstance(content, str | bytes) else None


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _tensor(storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> np.ndarray:
    """A view of a storage, as `torch._utils._rebuild_tensor_v2` makes it. Raises ValueError where it would leave it."""
    numbers = storage.numbers
    if len(size) != len(stride) or any(s < 0 for s in (offset, *size, *stride)):
        raise ValueError("a tensor has no such shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(numbers):
        raise ValueError("a tensor is larger than its storage")
    if 0 in size:
        return np.empty(tuple(size), numbers.dtype)
    strides = tuple(step * numbers.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(numbers[offset:], tuple(size), strides, writeable=False)


def _tensor_of_dtype(storage: Storage, offset: int, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v3`: the storage is of bytes, the type comes as the third of the rest."""
    return _tensor(Storage(storage.numbers.view(rest[2])), offset, size, stride)


def _same(value: Any, *_: Any) -> Any:
    return value


def _of_type(make: Callable[..., Any], _type: Any, arguments: Sequence[Any], *_: Any) -> Any:
    return make(*arguments)


_NUMBERS = {
    **{"double": np.float64, "float": np.float32, "half": np.float16, "bfloat16": ml_dtypes.bfloat16},
    **{"long": np.int64, "int": np.int32, "short": np.int16, "char": np.int8, "byte": np.uint8, "bool": np.bool_},
    **{"float64": np.float64, "float32": np.float32, "float16": np.float16},
    **{"int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8},
    **{"uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8},
    **{"cfloat": np.complex64, "complex64": np.complex64, "cdouble": np.complex128, "complex128": np.complex128},
    **{"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2},
}
_STORAGES = {"Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"}
_PATHS = {
    **dict.fromkeys(("PosixPath", "PurePosixPath"), pathlib.PurePosixPath),
    **dict.fromkeys(("WindowsPath", "PureWindowsPath"), pathlib.PureWindowsPath),
}

_KNOWN: dict[str, Any] = {
    **{f"torch.{name}": np.dtype(dtype) for name, dtype in _NUMBERS.items()},
    **{f"torch.{name}Storage": np.dtype(_NUMBERS[name.lower()]) for name in _STORAGES},
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
    "torch.storage.UntypedStorage": np.dtype(np.uint8),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._utils._rebuild_device_tensor_from_numpy": _same,  # how torch_xla saves a TPU's tensors
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch.Tensor": _same,
    "torch.nn.parameter.Parameter": _same,
    "torch.nn.parameter.Buffer": _same,
    "torch.Size": tuple,
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "numpy.ndarray": Array,
    "numpy.dtype": Dtype,
    "numpy.core.multiarray._reconstruct": Array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.core.numeric._frombuffer": Array.from_buffer,
    "collections.OrderedDict": StateDict,
    "collections.defaultdict": collections.defaultdict,
    "collections.Counter": collections.Counter,
    "collections.deque": collections.deque,
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": types.SimpleNamespace,
    **{f"datetime.{name}": getattr(datetime, name) for name in ("datetime", "date", "time", "timedelta")},
    **{f"pathlib.{name}": kind for name, kind in _PATHS.items()},
    "_codecs.encode": _encode,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.bytearray": lambda *content: bytearray(_bytes(content[0]) if content else b""),
    **{f"builtins.{kind.__name__}": kind for kind in (dict, list, tuple, int, float, bool, str, complex, slice)},
    "builtins.bytes": lambda *content: _bytes(content[0]) if content else b"",
}
# Modules that have moved: where Python 2, newer NumPys and newer Pythons have them.
_MOVED = {"__builtin__": "builtins", "pathlib._local": "pathlib", "numpy._core": "numpy.core"}


class Unpickler(pickle.Unpickler):
    """Reads one pickle from a file, and leaves the file behind its end.

    Args:
      storage: (dtype, key, number of elements) -> the storage of that key.
    """

    def __init__(self, file: IO[bytes], storage: Callable[[np.dtype, str, int], Storage] | None = None):
        super().__init__(file, encoding="latin1")  # as NumPy's arrays of Python 2 need it
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        for old, new in _MOVED.items():
            if module == old or module.startswith(f"{old}."):
                module = new + module.removeprefix(old)
        try:
            return _KNOWN[f"{module}.{name}"]
        except KeyError:
            pass
        if re.fullmatch(r"_rebuild_qtensor|Q\w+Storage|q(u?int)\d+", name) and module.startswith("torch"):
            raise ForeignError("a file of quantised tensors, which are no weights of floating point")
        raise RefusedError(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> Any:
        kind, *rest = identity
        if self._storage is None or _text(kind) != "storage":
            raise RefusedError(_text(kind))
        dtype, key, _, count = rest[:4]
        storage = self._storage(np.dtype(dtype), _text(key), int(count))
        if len(rest) > 4 and rest[4] is not None:  # of a legacy file: a view of another storage
            _, offset, size = rest[4]
            return Storage(storage.numbers[offset : offset + size])
        return storage
