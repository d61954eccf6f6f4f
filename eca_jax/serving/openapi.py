"""The OpenAPI document, from what each protocol says of its paths.

A protocol's operation gives the schema of each answer, and the statuses of its refusals as "refusals"; what all of
them share is added here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eca_jax.version import __version__

_REASONS = {
    400: "Malformed, or an image that cannot be read.",
    404: "No such model, or it does not return this.",
    408: "The body did not arrive in time.",
    413: "Over a limit of size or number.",
    415: "Of a kind that is not read.",
    503: "Not ready, or too much to do: come back after Retry-After.",
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def document(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document of a server.

    Args:
      protocols: paths by name, as from `paths` of `eca_jax.serving.v1`.
    """
    paths = {path: _complete(operations) for protocol in protocols for path, operations in protocol.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "eca-jax", "version": __version__, "description": "Images in, classes out."},
        "paths": paths,
    }


def _complete(operations: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if key == "parameters" else _operation(value)  # those that all operations of a path share
        for key, value in operations.items()
    }


def _operation(fields: Mapping[str, Any]) -> dict[str, Any]:
    answers = {status: _answer(schema, "An answer.") for status, schema in fields["responses"].items()}
    refusals = {str(status): _answer(_ERROR, _REASONS[status]) for status in fields.get("refusals", ())}
    rest = {key: value for key, value in fields.items() if key not in ("responses", "refusals")}
    return rest | {"responses": answers | refusals}


def _answer(schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    kind = schema.get("contentMediaType", "application/json")
    return {"description": description, "content": {kind: {"schema": dict(schema)}}}
