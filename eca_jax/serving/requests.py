"""What a request asks for, from its body in any of three forms: an image file, a form of files, or JSON with base64."""

import asyncio
import base64
import binascii
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from eca_jax.serving.limits import Limits, Refused

MOST = 999_999_999  # of a number of classes
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises Refused: too large, too slow, or compressed."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "compressed bodies are not read: send it without Content-Encoding")
    too_large = Refused(413, f"the body is larger than {limits.body_bytes} bytes")
    declared = request.headers.get("content-length")
    if declared is not None:
        # int() would take a sign, spaces and underscores, too.
        if not (declared.isascii() and declared.isdigit()) or len(declared) > 20:
            raise Refused(400, "Content-Length is not a number")
        if int(declared) > limits.body_bytes:
            raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {limits.seconds:g} s", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refused(400, "the client has gone") from None
    return b"".join(chunks)


async def parse(request: Request, limits: Limits, allowed: Sequence[str]) -> tuple[list[bytes], dict[str, Any]]:
    """A request's images, as files, 1 or more, and what it says of the allowed options, some of OPTIONS.

    An option in the body goes before the same one in the query.

    Raises Refused for one that is malformed or over a limit.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    options: dict[str, Any] = {}
    query: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        _add(query, allowed, name, value)
    if kind == b"application/json":
        fields = read_json(await read_body(request, limits))
        images = _from_json(fields, options, allowed)
    elif kind == b"multipart/form-data":
        images = await _from_form(request, parameters, options, allowed, limits)
    elif kind.startswith(b"image/") or kind == b"application/octet-stream":
        images = [await read_body(request, limits)]
    else:
        raise Refused(
            415,
            "Content-Type must be image/..., application/octet-stream, multipart/form-data or application/json, "
            f"not {kind.decode('latin-1')[:80]!r}",
        )
    check_images(images, limits)
    return images, query | options


def check_images(images: list[bytes], limits: Limits) -> None:
    """Raises Refused for no image, too many, or an empty one."""
    if not images:
        raise Refused(400, "there is no image in the request")
    if len(images) > limits.images_at_once:
        raise Refused(400, f"the request has {len(images)} images, of at most {limits.images_at_once}")
    if not all(images):
        raise Refused(400, "an image is empty")


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refused for anything else."""
    try:
        content = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None
    except RecursionError:
        raise Refused(400, "the JSON is nested too deeply") from None
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise Refused(400, f"the JSON must be an object, not {type(content).__name__}")
    return content


def from_base64(text: Any) -> bytes:
    """Raises Refused unless `text` is a string of base64."""
    if not isinstance(text, str):
        raise Refused(400, f"an image must be a string of base64, not {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "an image is not base64") from None


def _from_json(fields: Mapping[str, Any], options: dict[str, Any], allowed: Sequence[str]) -> list[bytes]:
    for name, value in fields.items():
        if name != "images":
            _add(options, allowed, name, value)
    images = fields.get("images")
    if not isinstance(images, list):
        raise Refused(400, "images must be a list of files in base64")
    return [from_base64(image) for image in images]


async def _from_form(
    request: Request,
    parameters: Mapping[bytes, bytes],
    options: dict[str, Any],
    allowed: Sequence[str],
    limits: Limits,
) -> list[bytes]:
    boundary = parameters.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise Refused(400, "multipart/form-data needs a boundary of 1 to 70 characters")
    body = await read_body(request, limits)
    if not body.rstrip().endswith(b"--" + boundary + b"--"):
        raise Refused(400, "the form is cut off: its last boundary is missing")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    # One file over the limit is let in, so that the refusal is the same as for the other forms.
    parser = MultiPartParser(request.headers, stream(), max_files=limits.images + 1, max_fields=len(allowed))
    parser.spool_max_size = limits.body_bytes + 1  # in memory, as the body is
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {error.message[:200]}") from None
    images = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                images.append(await value.read())
            else:
                _add(options, allowed, name, value)
    finally:
        await form.close()
    return images


def _add(options: dict[str, Any], allowed: Sequence[str], name: str, value: Any) -> None:
    """Takes one option into `options`: text, or what JSON has. Raises Refused."""
    if name not in allowed:
        raise Refused(400, f"there is no option {name[:80]!r}; there is {', '.join(allowed)}")
    if name in options:
        raise Refused(400, f"{name} is given twice")
    options[name] = OPTIONS[name](name, value)


def is_whole(value: Any) -> bool:
    """What JSON Schema calls an integer: 5.0 is one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(400, f"{name} must be a string")
    return value


def _count(name: str, value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if not (is_whole(value) and 1 <= value <= MOST):
        raise Refused(400, f"{name} must be a whole number from 1 to {MOST}")
    return int(value)


def _flag(name: str, value: Any) -> bool:
    value = _BOOLEANS.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise Refused(400, f"{name} must be true or false")
    return value


def _share(name: str, value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9.e-]{1,24}", value):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Refused(400, f"{name} must be a number from 0 to 1")
    return float(value)


# Readers of the options' values.
OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "model": _text,
    "top": _count,
    "features": _flag,
    "grad_cam": _flag,
    "threshold": _share,
    "masks": _flag,
}
