"""`/v1`: this project's own protocol. Images in, the likeliest classes out, as `eca-jax predict --json` writes them."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eca_jax.inference.ranking import Prediction, rank
from eca_jax.serving.models import Served
from eca_jax.serving.requests import parse
from eca_jax.serving.service import Service


def routes(service: Service) -> list[Route]:
    async def predict(request: Request) -> Response:
        asked = await parse(request, service.limits)
        served = service.models.get(asked.model)
        outputs = ["logits", *(["features"] if asked.features else [])]
        found = await service.answer(request, service.compute(served, asked.images, outputs))
        predictions: list[dict[str, Any]] = [
            {"classes": [_fields(prediction) for prediction in rank(logits, asked.top, served.class_names)]}
            for logits in found["logits"]
        ]
        if asked.features:
            for prediction, features in zip(predictions, found["features"], strict=True):
                prediction["features"] = features.tolist()
        return JSONResponse({"model": served.name, "version": served.version, "predictions": predictions})

    async def models(request: Request) -> Response:
        service.models.get()
        return JSONResponse({"models": [_describe(served) for served in service.models.all()]})

    return [
        Route("/v1/predict", predict, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
    ]


def _fields(prediction: Prediction) -> dict[str, Any]:
    named = {} if prediction.name is None else {"name": prediction.name}
    return {"class": prediction.index, "probability": prediction.probability, **named}


def _describe(served: Served) -> dict[str, Any]:
    return {
        "name": served.name,
        "model": served.model,
        "version": served.version,
        "image_size": served.image_size,
        "num_classes": served.programs["logits"].width,
        "returns": list(served.programs),
    }


_MODEL = {"name": "model", "in": "query", "schema": {"type": "string"}, "description": "Default: the first model."}
_TOP = {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 5}
_FILE = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_JSON = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "contentEncoding": "base64", "minLength": 1},
        },
        "model": {"type": "string"},
        "top": _TOP,
        "features": {"type": "boolean", "default": False},
    },
    "additionalProperties": False,
}
_FORM = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
        "model": {"type": "string"},
        "top": _TOP,
        "features": {"type": "boolean", "default": False},
    },
    "additionalProperties": False,
}
_CLASS = {
    "type": "object",
    "required": ["class", "probability"],
    "properties": {
        "class": {"type": "integer"},
        "probability": {"type": "number"},
        "name": {"type": "string"},
    },
}
_PREDICTION = {
    "type": "object",
    "required": ["classes"],
    "properties": {
        "classes": {"type": "array", "items": _CLASS},
        "features": {"type": "array", "items": {"type": "number"}},
    },
}
_ANSWER = {
    "type": "object",
    "required": ["model", "version", "predictions"],
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "predictions": {"type": "array", "items": _PREDICTION},
    },
}
PATHS: dict[str, Any] = {
    "/v1/predict": {
        "post": {
            "summary": "The likeliest classes of one image or several.",
            "operationId": "predict",
            "parameters": [
                _MODEL,
                {"name": "top", "in": "query", "schema": _TOP},
                {"name": "features", "in": "query", "schema": {"type": "boolean", "default": False}},
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "image/*": _FILE,
                    "application/octet-stream": _FILE,
                    "multipart/form-data": {"schema": _FORM},
                    "application/json": {"schema": _JSON},
                },
            },
            "responses": {"200": _ANSWER},
            "refusals": [400, 404, 408, 413, 415, 503],
        }
    },
    "/v1/models": {
        "get": {
            "summary": "The models that are served, the default one first.",
            "operationId": "models",
            "responses": {
                "200": {
                    "type": "object",
                    "required": ["models"],
                    "properties": {"models": {"type": "array", "items": {"type": "object"}}},
                }
            },
            "refusals": [503],
        }
    },
}
