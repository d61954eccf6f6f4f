"""`/v2`: the Open Inference Protocol that KServe, Triton and their clients and gateways speak, over HTTP.

A model takes one of two inputs: "images", BYTES [N], image files; or "pixels", UINT8 [N, S, S, C], prepared already.
It returns "logits" and "probabilities", FP32 [N, classes], and "features", FP32 [N, C], where it is served with them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eca_jax.inference.ranking import softmax
from eca_jax.serving.limits import Limits, Refused
from eca_jax.serving.models import Served
from eca_jax.serving.requests import check_images, read_body
from eca_jax.serving.service import Service
from eca_jax.serving.tensors import HEADER_LENGTH, Inference, Wanted, files, pixels, read_inference, write_inference
from eca_jax.version import __version__


def routes(service: Service) -> list[Route]:
    async def v2_server(request: Request) -> Response:
        return JSONResponse({"name": "eca-jax", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def v2_live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def v2_ready(request: Request) -> Response:
        service.check_ready()
        return JSONResponse({"ready": True})

    async def v2_model(request: Request) -> Response:
        return JSONResponse(_metadata(_served(service, request)))

    async def v2_model_ready(request: Request) -> Response:
        return JSONResponse({"name": _served(service, request).name, "ready": True})

    async def v2_infer(request: Request) -> Response:
        body = await read_body(request, service.limits)
        served = _served(service, request)
        asked = read_inference(body, request.headers.get(HEADER_LENGTH))
        wanted = asked.wanted or [Wanted(name, asked.binary) for name in _outputs(served)]
        for output in wanted:
            if output.name not in _outputs(served):
                raise Refused(404, f"{served.name} has no output {output.name[:80]!r}")
        found = await _infer(service, request, served, asked, wanted)
        head = {"model_name": served.name, "model_version": served.version}
        if asked.id is not None:
            head["id"] = asked.id
        content, headers = write_inference(head, [(output, found[output.name]) for output in wanted])
        return Response(content, headers=headers)

    found = [
        Route("/v2", v2_server, methods=["GET"]),
        Route("/v2/health/live", v2_live, methods=["GET"]),
        Route("/v2/health/ready", v2_ready, methods=["GET"]),
    ]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route(model, v2_model, methods=["GET"]),
            Route(f"{model}/ready", v2_model_ready, methods=["GET"]),
            Route(f"{model}/infer", v2_infer, methods=["POST"]),
        ]
    return found


def _served(service: Service, request: Request) -> Served:
    served = service.models.get(request.path_params["name"])
    if served.detection:
        raise Refused(404, f"{served.name} is a detector, which /v1/detect answers for")
    version = request.path_params.get("version", served.version)
    if version != served.version:
        raise Refused(404, f"{served.name} has no version {version[:80]!r}; it has {served.version}")
    return served


def _outputs(served: Served) -> dict[str, str]:
    """The names of outputs, and of the programs that they are computed by."""
    return {"logits": "logits", "probabilities": "logits"} | {
        name: name for name in served.programs if name != "logits"
    }


async def _infer(
    service: Service, request: Request, served: Served, asked: Inference, wanted: list[Wanted]
) -> dict[str, np.ndarray]:
    """By name, the outputs [N, width]."""
    outputs = _outputs(served)
    programs = sorted({outputs[output.name] for output in wanted})
    if (asked.name, asked.datatype) == ("images", "BYTES"):
        images = files(asked)
        check_images(images, service.limits)
        work = service.compute(served, images, programs)
    elif (asked.name, asked.datatype) == ("pixels", "UINT8"):
        rows = list(pixels(asked, served.shape))
        check_images([b"pixels"] * len(rows), service.limits)
        work = service.compute_pixels(served, rows, programs)
    else:
        raise Refused(400, f"an input is images of BYTES or pixels of UINT8, not {asked.name[:80]!r}")
    found = {name: np.stack(rows) for name, rows in (await service.answer(request, work)).items()}
    # Softmax image by image, as `rank` does it.
    by_name = {"probabilities": np.stack([softmax(row) for row in found["logits"]])} if "logits" in found else {}
    return found | by_name


def _metadata(served: Served) -> Mapping[str, Any]:
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": "jax",
        "inputs": [
            {"name": "images", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, *served.shape]},
        ],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, served.programs[program].width]}
            for name, program in _outputs(served).items()
        ],
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Mapping[str, Any], **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **bounds}


_STRING, _FLAG, _ANY = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
_TENSOR = _object(name=_STRING, datatype=_STRING, shape=_list({"type": "integer"}))
_ANSWER = _object(model_name=_STRING, model_version=_STRING, outputs=_list(_TENSOR))


def _inference(limits: Limits) -> dict[str, Any]:
    """A request's JSON. That a shape has as many elements as the data is beyond a schema."""
    count = limits.images_at_once
    size = {"type": "integer", "minimum": 1, "maximum": count}
    image = {"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 1}
    value = {"type": "integer", "minimum": 0, "maximum": 255}
    images = _object(
        name={"const": "images"},
        datatype={"const": "BYTES"},
        shape=_list(size, minItems=1, maxItems=2),
        data=_list(image, minItems=1, maxItems=count),
    )
    pixels = _object(
        name={"const": "pixels"},
        datatype={"const": "UINT8"},
        shape=_list({"type": "integer", "minimum": 1}, minItems=4, maxItems=4),
        data=_list(value, minItems=1),
    )
    inference = _object(inputs=_list({"oneOf": [images, pixels]}, minItems=1, maxItems=1))
    outputs = _list(_object(name={"enum": ["logits", "probabilities", "features"]}), maxItems=3)
    # Some clients write null for what they leave out.
    outputs["type"], identifier = ["array", "null"], {"type": ["string", "null"]}
    inference["properties"] |= {"id": identifier, "outputs": outputs, "parameters": _ANY}
    return inference


def _get(name: str, summary: str, answer: Mapping[str, Any], refusals: list[int]) -> dict[str, Any]:
    return {"get": {"summary": summary, "operationId": name, "responses": {"200": answer}, "refusals": refusals}}


def _of_model(suffix: str, parameters: list[str], limits: Limits) -> dict[str, Any]:
    described = [{"name": name, "in": "path", "required": True, "schema": _STRING} for name in parameters]
    path = "/v2/models/{name}" + ("/versions/{version}" if "version" in parameters else "")
    tensors = _list(_TENSOR)
    infer = {
        "summary": "Outputs of a batch of images.",
        "operationId": f"v2_infer{suffix}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _inference(limits)}}},
        "responses": {"200": _ANSWER},
        "refusals": [400, 404, 408, 413, 415, 503],
    }
    described_model = _object(name=_STRING, versions=_list(_STRING), platform=_STRING, inputs=tensors, outputs=tensors)
    paths = {
        path: _get(f"v2_model{suffix}", "Inputs and outputs of a model.", described_model, [404, 503]),
        f"{path}/ready": _get(
            f"v2_model_ready{suffix}", "The model answers.", _object(name=_STRING, ready=_FLAG), [404, 503]
        ),
        f"{path}/infer": {"post": infer},
    }
    return {name: {"parameters": described, **operations} for name, operations in paths.items()}


def paths(limits: Limits) -> dict[str, Any]:
    """The protocol's part of the OpenAPI document."""
    return {
        "/v2": _get("v2_server", "The server and its extensions.", _object(name=_STRING, version=_STRING), []),
        "/v2/health/live": _get("v2_live", "The process answers.", _object(live=_FLAG), []),
        "/v2/health/ready": _get("v2_ready", "All models answer.", _object(ready=_FLAG), [503]),
        **_of_model("", ["name"], limits),
        **_of_model("_of_version", ["name", "version"], limits),
    }
