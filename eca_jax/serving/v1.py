"""`/v1`: this project's own protocol. Images in; the likeliest classes out, or the objects and where they are."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eca_jax.inference.ranking import Prediction, rank
from eca_jax.serving.limits import Limits
from eca_jax.serving.models import Served
from eca_jax.serving.requests import MOST, parse
from eca_jax.serving.service import Service

THRESHOLD = 0.5  # the least score of an object, where a request does not say


def routes(service: Service) -> list[Route]:
    async def predict(request: Request) -> Response:
        images, options = await parse(request, service.limits, ("model", "top", "features", "grad_cam"))
        served = service.models.get(options.get("model"))
        outputs = ["logits", *(["features"] if options.get("features") else [])]
        seen: list[dict[str, Any]] = []
        if options.get("grad_cam"):
            found, seen = await service.answer(request, service.explain(served, images, outputs))
        else:
            found = await service.answer(request, service.compute(served, images, outputs))
        predictions: list[dict[str, Any]] = [
            {"classes": [_fields(one) for one in rank(logits, options.get("top", 5), served.class_names)]}
            for logits in found["logits"]
        ]
        for index, features in enumerate(found.get("features", ())):
            predictions[index]["features"] = features.tolist()
        for index, one in enumerate(seen):
            predictions[index]["grad_cam"] = one
        return JSONResponse({"model": served.name, "version": served.version, "predictions": predictions})

    async def detect(request: Request) -> Response:
        images, options = await parse(request, service.limits, ("model", "threshold", "masks"))
        served = service.models.get(options.get("model"))
        threshold, masks = options.get("threshold", THRESHOLD), options.get("masks", True)
        found = await service.answer(request, service.detect(served, images, threshold, masks))
        return JSONResponse({"model": served.name, "version": served.version, "detections": found})

    async def models(request: Request) -> Response:
        service.models.get()
        return JSONResponse({"models": [_describe(served) for served in service.models.all()]})

    return [
        Route("/v1/predict", predict, methods=["POST"]),
        Route("/v1/detect", detect, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
    ]


def _fields(prediction: Prediction) -> dict[str, Any]:
    named = {} if prediction.name is None else {"name": prediction.name}
    return {"class": prediction.index, "probability": prediction.probability, **named}


def _describe(served: Served) -> dict[str, Any]:
    if served.detection:
        returns = ["boxes", *(["masks"] if served.detection.has_masks else [])]
    else:
        returns = [*served.programs, *(["grad_cam"] if served.explanation else [])]
    return {
        "name": served.name,
        "model": served.model,
        "task": "detection" if served.detection else "classification",
        "version": served.version,
        "image_size": served.image_size,
        "num_classes": served.detection.num_classes if served.detection else served.programs["logits"].width,
        "returns": returns,
    }


def paths(limits: Limits) -> dict[str, Any]:
    """The protocol's part of the OpenAPI document."""
    top = {"type": "integer", "minimum": 1, "maximum": MOST, "default": 5}
    share = {"type": "number", "minimum": 0, "maximum": 1, "default": THRESHOLD}
    predictions = _list(
        _object(
            {"classes": _list(_object({"class": _INTEGER, "probability": _NUMBER}, name=_STRING))},
            features=_list(_NUMBER),
            grad_cam=_object({"class": _INTEGER, "box": _BOX, "map": _list(_list(_NUMBER))}),
        )
    )
    mask = _object({"size": _list(_INTEGER), "counts": _list(_INTEGER)})
    objects = _list(_object({"class": _INTEGER, "score": _NUMBER, "box": _BOX}, name=_STRING, mask=mask))
    detections = _list(_object({"width": _INTEGER, "height": _INTEGER, "objects": objects}))
    return {
        "/v1/predict": _of_images(
            limits,
            "The likeliest classes of one image or several.",
            "predict",
            {"top": top, "features": _flag(False), "grad_cam": _flag(False)},
            {"predictions": predictions},
        ),
        "/v1/detect": _of_images(
            limits,
            "The objects in one image or several; boxes x1 y1 x2 y2, masks as COCO's run lengths.",
            "detect",
            {"threshold": share, "masks": _flag(True)},
            {"detections": detections},
        ),
        "/v1/models": {
            "get": {
                "summary": "The models that are served, the default one first.",
                "operationId": "models",
                "responses": {"200": _object({"models": _list({"type": "object"})})},
                "refusals": [503],
            }
        },
    }


_STRING, _INTEGER, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
# The tools that read such documents know an image only by its bytes: here a file, and there a file in base64.
_FILE = {"type": "string", "format": "binary", "contentMediaType": "image/*", "minLength": 1}
_BASE64 = {
    "type": "string",
    "format": "byte",
    "contentEncoding": "base64",
    "contentMediaType": "image/*",
    "minLength": 1,
}


def _of_images(
    limits: Limits, summary: str, name: str, options: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    """An operation that takes images, in any of three forms, and options."""
    options = {"model": {"type": "string", "description": "Default: the first model."}, **options}

    def form(image: dict[str, Any]) -> dict[str, Any]:
        images = _list(image) | {"minItems": 1, "maxItems": limits.images_at_once}
        return {"schema": _object({"images": images}, **options) | {"additionalProperties": False}}

    content = {
        **{kind: {"schema": _FILE} for kind in ("image/*", "application/octet-stream")},
        "multipart/form-data": form(_FILE),
        "application/json": form(_BASE64),
    }
    return {
        "post": {
            "summary": summary,
            "operationId": name,
            "parameters": [{"name": option, "in": "query", "schema": schema} for option, schema in options.items()],
            "requestBody": {"required": True, "content": content},
            "responses": {"200": _object({"model": _STRING, "version": _STRING, **answer})},
            "refusals": [400, 404, 408, 413, 415, 503],
        }
    }


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _flag(default: bool) -> dict[str, Any]:
    return {"type": "boolean", "default": default}


_BOX = _list(_NUMBER) | {"minItems": 4, "maxItems": 4}
