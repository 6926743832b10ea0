"""The gateway's paths, and what all answers have in common."""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock import asyncapi, errors
from penstock.bus.request_id import HEADER
from penstock.errors import PenstockError
from penstock.ids import uuid7
from penstock.verbs import VERBS
from penstock_gateway import openapi
from penstock_gateway.answers import JSON, HttpError, json_answer, refusal
from penstock_gateway.asks import Asks
from penstock_gateway.events import Events
from penstock_gateway.gateway import Gateway
from penstock_gateway.links import Links
from penstock_gateway.metrics import UNKNOWN, Metrics

log: Final = logging.getLogger("penstock.gateway")

HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
PROBES: Final = (HEALTHZ, READYZ)
"""Paths that are not counted: who asks for them asks all the time."""
EVENTS: Final = "events"

_REQUEST_ID: Final = HEADER.lower().encode()
_fit: Final = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch
_COMMON: Final = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def build(gateway: Gateway) -> tuple[ASGIApp, Events]:
    """Return the application, and the event streams that the process ends when it stops."""
    events = Events(gateway)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def readyz(request: Request) -> Response:
        missing = gateway.missing()
        return json_answer({"ready": not missing, "missing": missing}, 503 if missing else 200)

    async def description(request: Request) -> Response:
        return Response(openapi.document(), media_type=JSON)

    async def subjects(request: Request) -> Response:
        return Response(asyncapi.document(gateway.settings.root), media_type=JSON)

    routes = [
        Route(HEALTHZ, healthz),
        Route(READYZ, readyz),
        Route("/v1/openapi.json", description),
        Route("/v1/asyncapi.json", subjects),
        _route("/v1/events", events, "GET"),
        _route("/v1/signals/{token}/{name}", Links(gateway), "GET", "POST"),
        _route("/v1/{resource}/{verb}", Asks(gateway), "POST"),
    ]
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    return _Common(app, gateway.metrics), events


def operation_of(scope: Scope) -> str:
    """Return the `operationId` of a request that was routed; paths that the description does not have are `unknown`."""
    match getattr(scope.get("route"), "path", None):
        case "/v1/{resource}/{verb}":
            parts = scope["path_params"]
            name = f"{parts['resource']}.{parts['verb']}"
            return name if name in VERBS else UNKNOWN
        case "/v1/signals/{token}/{name}":
            return "signal.link" if scope["method"] == "POST" else "signal.page"
        case "/v1/events":
            return EVENTS
        case "/v1/openapi.json":
            return "openapi"
        case _:
            return UNKNOWN


def _route(path: str, endpoint: Callable[[Request], Awaitable[Response]], *methods: str) -> Route:
    async def answer(request: Request) -> Response:  # Starlette takes an object for an ASGI application
        return await endpoint(request)

    return Route(path, answer, methods=list(methods))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, PenstockError)
    return refusal(error)


async def _http_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return refusal(error.error, error.status)


async def _starlette_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: "there is no such path", 405: "this path takes another method"}
    response = refusal(
        errors.make("invalid_request", texts.get(error.status_code, error.detail)), error.status_code
    )
    response.headers.update(error.headers or {})
    return response


HANDLERS: Final[Any] = {
    PenstockError: _refused,
    HttpError: _http_refused,
    HTTPException: _starlette_refused,
}


class _Common:
    """Gives each request an id, adds the common headers, and answers `internal` for what nobody has caught.

    A path is never logged: it may hold a waitpoint's token.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        given = next((value for name, value in scope["headers"] if name == _REQUEST_ID), b"")
        request_id = given if _fit(given) else uuid7().encode()
        scope["request_id"] = request_id.decode()
        status = 0
        began = time.perf_counter()

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers: list[tuple[bytes, bytes]] = message["headers"]
                had = {name for name, _ in headers}
                common = [each for each in _COMMON if each[0] not in had]
                message = {**message, "headers": [*headers, *common, (_REQUEST_ID, request_id)]}
            await send(message)

        about = {"request_id": scope["request_id"], "method": scope["method"]}
        try:
            await self._app(scope, receive, with_headers)
        except Exception as error:
            # Not log.exception: Starlette raises again what it has answered itself, and a message may quote a path.
            log.error(
                "a request failed", extra={**about, "reason": type(error).__name__}, exc_info=_bare(error)
            )
            if not status:
                await refusal(errors.make("internal"))(scope, receive, with_headers)
        seconds = time.perf_counter() - began
        operation = operation_of(scope)
        if status and scope["path"] not in PROBES:
            streamed = operation == EVENTS and status == 200
            self._metrics.answered(operation, status, None if streamed else seconds)
        ms = round(seconds * 1000, 1)
        log.debug("answered", extra={**about, "operation": operation, "status": status, "ms": ms})


def _bare(error: Exception) -> Any:
    """Return the error for the log with its traceback, and without its message."""
    kind = type(error)
    return kind, Exception(kind.__name__), error.__traceback__
