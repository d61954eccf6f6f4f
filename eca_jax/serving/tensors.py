"""Tensors of the Open Inference Protocol (KServe's v2), as JSON or in its binary extension.

A body is JSON, or JSON of the length that the header Inference-Header-Content-Length gives, then the tensors' bytes one
after another, little-endian and row-major; BYTES elements are a 4-byte length and so many bytes each.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eca_jax.serving.limits import Refused
from eca_jax.serving.requests import from_base64, is_whole, read_json

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An output that is asked for, and whether in binary."""

    name: str
    binary: bool


@dataclasses.dataclass(frozen=True)
class Inference:
    """A request.

    Attributes:
      id: to be given back, or None.
      name, datatype, shape: of its one input.
      data: the input's bytes, or what its JSON has.
      wanted: outputs, or None for all.
      binary: of outputs, where they are not named.
    """

    id: str | None
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any
    wanted: list[Wanted] | None
    binary: bool


def read_inference(body: bytes, header_length: str | None) -> Inference:
    """A request's body. Raises Refused for what the protocol does not have."""
    content, rest = _split(body, header_length)
    parameters = _object(content.get("parameters", {}), "parameters")
    binary = _flag(parameters, "binary_data_output", False)
    inputs = content.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1):
        raise Refused(400, "inputs must be a list of one tensor")
    tensor = _object(inputs[0], "an input")
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not (isinstance(name, str) and isinstance(datatype, str)):
        raise Refused(400, "an input has a name and a datatype")
    if not (isinstance(shape, list) and all(is_whole(size) and 0 <= size < 1 << 31 for size in shape)):
        raise Refused(400, f"the shape of {name[:80]} must be a list of whole numbers")
    length = _object(tensor.get("parameters", {}), "parameters").get("binary_data_size")
    if length is None:
        if rest:
            raise Refused(400, f"{len(rest)} bytes follow the JSON that belong to no input")
        data = tensor.get("data")
    elif type(length) is not int or length != len(rest):
        raise Refused(400, f"binary_data_size is {str(length)[:20]}, and {len(rest)} bytes follow the JSON")
    else:
        data = rest
    identifier = content.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise Refused(400, "id must be a string")
    return Inference(
        identifier, name, datatype, tuple(map(int, shape)), data, _wanted(content.get("outputs"), binary), binary
    )


def files(inference: Inference) -> list[bytes]:
    """Elements of a BYTES tensor; those in JSON are base64. Raises Refused."""
    if isinstance(inference.data, bytes):
        found, rest = [], memoryview(inference.data)
        while rest:
            if len(rest) < 4 or len(rest) - 4 < (size := struct.unpack("<I", rest[:4])[0]):
                raise Refused(400, f"the bytes of {inference.name} end within an element")
            found.append(bytes(rest[4 : 4 + size]))
            rest = rest[4 + size :]
    else:
        flat = _flat(inference.data)
        found = [from_base64(text) for text in flat]
    if len(found) != math.prod(inference.shape) or len(inference.shape) not in (1, 2):
        raise Refused(400, f"{inference.name} has {len(found)} elements and the shape {list(inference.shape)}")
    return found


def pixels(inference: Inference, image_shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [N, S, S, C] of a UINT8 tensor of images [S, S, C]. Raises Refused."""
    shape, (height, width, channels) = inference.shape, image_shape
    if len(shape) != 4 or shape[1:] != (height, width, channels):
        raise Refused(400, f"{inference.name} must be [N, {height}, {width}, {channels}], not {list(shape)[:9]}")
    if isinstance(inference.data, bytes):
        array = np.frombuffer(inference.data, np.uint8)
    else:
        try:
            values = np.array(inference.data)
        except (ValueError, RecursionError):  # lists of different lengths, or too deep
            values = np.array(None)
        whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and bool((values % 1 == 0).all()))
        if not whole or (values.size and not 0 <= values.min() <= values.max() <= 255):
            raise Refused(400, f"data of {inference.name} must be whole numbers from 0 to 255")
        array = values.astype(np.uint8).ravel()
    if array.size != math.prod(shape):
        raise Refused(400, f"{inference.name} has {array.size} values and the shape {list(shape)}")
    return array.reshape(shape)


def write_inference(
    head: Mapping[str, Any], outputs: Sequence[tuple[Wanted, np.ndarray]]
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer with float32 outputs, and its headers."""
    tensors, buffers = [], []
    for wanted, array in outputs:
        tensor: dict[str, Any] = {"name": wanted.name, "datatype": "FP32", "shape": list(array.shape)}
        if wanted.binary:
            buffers.append(array.astype("<f4").tobytes())
            tensor["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            tensor["data"] = array.ravel().tolist()
        tensors.append(tensor)
    text = json.dumps({**head, "outputs": tensors}, allow_nan=False, separators=(",", ":")).encode()
    if not buffers:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *buffers]), headers


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    if header_length is None:
        return read_json(body), b""
    length = int(header_length) if header_length.isascii() and header_length.isdigit() else -1
    if not 0 <= length <= len(body):
        raise Refused(400, f"{HEADER_LENGTH} must be a number up to the body's {len(body)} bytes")
    return read_json(body[:length]), body[length:]


def _wanted(outputs: Any, binary: bool) -> list[Wanted] | None:
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list):
        raise Refused(400, "outputs must be a list")
    found = []
    for output in outputs:
        fields = _object(output, "an output")
        if not isinstance(fields.get("name"), str):
            raise Refused(400, "an output has a name")
        parameters = _object(fields.get("parameters", {}), "parameters")
        found.append(Wanted(fields["name"], _flag(parameters, "binary_data", binary)))
    if len({wanted.name for wanted in found}) != len(found):
        raise Refused(400, "an output is asked for twice")
    return found


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Refused(400, f"{what} must be an object")
    return value


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refused(400, f"{name} must be true or false")
    return value


def _flat(data: Any) -> list[Any]:
    """Data of a tensor may be nested as its shape is, or flat: here of one or two axes."""
    if not isinstance(data, list):
        raise Refused(400, "an input has data, or binary_data_size and the bytes")
    return [element for row in data for element in (row if isinstance(row, list) else [row])]
