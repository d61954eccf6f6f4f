"""The ASGI application: every protocol's routes, health, metrics, the page, and refusals as JSON."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eca_jax.serving import v1, v2
from eca_jax.serving.limits import Refused, busy
from eca_jax.serving.openapi import document
from eca_jax.serving.service import Service

# Each has `routes(service)` and, for the OpenAPI document, `paths(limits)`.
PROTOCOLS = (v1, v2)

_HEALTH = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
_TEXT = {"type": "string", "contentMediaType": "text/plain"}
PATHS: dict[str, Any] = {
    "/healthz": {"get": {"summary": "The process answers.", "operationId": "healthz", "responses": {"200": _HEALTH}}},
    "/readyz": {
        "get": {
            "summary": "All models are compiled, and the server is not about to end.",
            "operationId": "readyz",
            "responses": {"200": _HEALTH},
            "refusals": [503],
        }
    },
    "/metrics": {"get": {"summary": "For Prometheus.", "operationId": "metrics", "responses": {"200": _TEXT}}},
}
# The page is one file; nothing in it comes from elsewhere, and nothing goes there.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(service: Service) -> ASGIApp:
    """The application of a service; loading the models begins with its lifespan."""
    page_text = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    openapi_document = document([PATHS, *(protocol.paths(service.limits) for protocol in PROTOCOLS)])

    async def page(request: Request) -> Response:
        return HTMLResponse(page_text, headers=_PAGE_HEADERS)

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        service.check_ready()
        return JSONResponse({"status": "ready"})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(service.metrics.text())

    async def openapi(request: Request) -> Response:
        return JSONResponse(openapi_document)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with service.running():
            yield

    own = [Route(f"/{end.__name__}", end, methods=["GET"]) for end in (healthz, readyz, metrics)]
    app = Starlette(
        routes=[
            Route("/", page, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
            *own,
            *(route for protocol in PROTOCOLS for route in protocol.routes(service)),
        ],
        exception_handlers={Refused: _refuse, HTTPException: _not_found, Exception: _broken},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return service.metrics.measured(_bounded(app, service))


def _bounded(app: ASGIApp, service: Service) -> ASGIApp:
    """`app` for so many requests at a time, whose answers have to be taken in time, and which end a closing server."""
    limits, in_hand = service.limits, 0

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal in_hand
        if scope["type"] != "http":
            return await app(scope, receive, send)

        async def sending(message: Message) -> None:
            if service.draining and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            async with asyncio.timeout(limits.seconds):  # a client that stops reading is let go
                await send(message)

        if in_hand >= limits.requests and scope["path"] not in ("/healthz", "/readyz", "/metrics"):
            refused = busy(f"{in_hand} requests are in hand, of at most {limits.requests}")
            return await _response(refused)(scope, receive, sending)
        in_hand += 1
        try:
            await app(scope, receive, sending)
        finally:
            in_hand -= 1

    return bounded


def _response(refused: Refused) -> Response:
    return JSONResponse({"error": refused.reason}, status_code=refused.status, headers=refused.headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _response(error)


async def _not_found(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, or not by this method."""
    assert isinstance(error, HTTPException)
    return _response(Refused(error.status_code, error.detail, dict(error.headers or {})))


async def _broken(request: Request, error: Exception) -> Response:
    return _response(Refused(500, "internal error"))  # the log has the rest
