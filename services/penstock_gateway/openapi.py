"""The gateway's description in OpenAPI 3.1, made from the verbs and the JSON Schemas of their messages."""

from functools import cache
from typing import Any, Final

import msgspec

from penstock import __version__
from penstock.messages.common import Page
from penstock.verbs import DESCRIPTIONS, MAX_BATCH, VERBS, Verb
from penstock_gateway.answers import JSON
from penstock_gateway.events import FILTERS
from penstock_gateway.links import FORM

REF: Final = "#/components/schemas/"
ABOUT: Final = """\
Every verb of Penstock's contract over HTTP. Bodies and answers are those of NATS; an error has its contract number as
the status and `{"error": …}` as its body. A verb that takes batches takes an array too, and then answers 200 with an
array of `{"ok": …}` and `{"error": …}` in the same order."""

ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["code", "class", "message", "retryable", "detail"],
    "properties": {
        "code": {"type": "string"},
        "class": {
            "enum": [
                "contention", "not_found", "conflict", "invalid", "unauthorized", "unavailable", "internal",
            ]
        },
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "detail": {"type": "object"},
        "retry_after_ms": {"type": "integer"},
    },
}  # fmt: skip
FAILED: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"$ref": REF + "Error"}},
}
TRACE: Final[list[dict[str, Any]]] = [
    {"$ref": "#/components/parameters/RequestId"},
    {"$ref": "#/components/parameters/Traceparent"},
]
HEADERS: Final[dict[str, Any]] = {
    "RequestId": {
        "name": "Penstock-Request-Id",
        "in": "header",
        "description": "names the request in logs; the answer has it too",
        "schema": {"type": "string"},
    },
    "Traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "of W3C Trace Context; executions that the request creates keep it",
        "schema": {"type": "string"},
    },
}


@cache
def document() -> bytes:
    """Return the description as JSON."""
    types = [each for verb in VERBS.values() for each in (verb.request, verb.reply)]
    shapes, schemas = msgspec.json.schema_components(dict.fromkeys(types), ref_template=REF + "{name}")
    shape = dict(zip(dict.fromkeys(types), shapes, strict=True))
    paths = {
        f"/v1/{verb.name.replace('.', '/')}": {"post": _operation(verb, shape)} for verb in VERBS.values()
    }
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Penstock", "version": __version__, "description": ABOUT},
            "tags": [{"name": name} for name in dict.fromkeys(name.split(".")[0] for name in VERBS)],
            "paths": {**paths, **_others()},
            "security": [{"bearer": []}],
            "components": {
                "schemas": {**schemas, "Error": ERROR, "Failed": FAILED},
                "parameters": HEADERS,
                "responses": {
                    "Failed": _answer("an error, with its number as the status", {"$ref": REF + "Failed"})
                },
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _answer(text: str, schema: dict[str, Any], media_type: str = JSON) -> dict[str, Any]:
    return {"description": text, "content": {media_type: {"schema": schema}}}


def _operation(verb: Verb[Any, Any], shape: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    request, reply = shape[verb.request], shape[verb.reply]
    if verb.batch:
        request = {"oneOf": [request, {"type": "array", "items": request, "maxItems": MAX_BATCH}]}
        given = {"ok": reply, "error": {"$ref": REF + "Error"}}
        item = {
            "oneOf": [
                {"type": "object", "required": [name], "properties": {name: shape}}
                for name, shape in given.items()
            ]
        }
        reply = {"anyOf": [reply, {"type": "array", "items": item}]}
    gives = "a page" if issubclass(getattr(verb.reply, "__origin__", verb.reply), Page) else "the reply"
    return {
        "operationId": verb.name,
        "tags": [verb.name.split(".")[0]],
        "summary": verb.name,
        "description": f"Answered by {verb.service}, which {DESCRIPTIONS[verb.service]}.",
        "parameters": TRACE,
        "requestBody": {"required": True, "content": {JSON: {"schema": request}}},
        "responses": {"200": _answer(gives, reply), "default": {"$ref": "#/components/responses/Failed"}},
    }


def _others() -> dict[str, Any]:
    """The paths that are no verbs."""
    failed = {"default": {"$ref": "#/components/responses/Failed"}}
    text = {"type": "string"}
    filters = [
        {"name": name, "in": "query", "schema": {"type": "string", "pattern": r"^(\*|[A-Za-z0-9_-]{1,128})$"}}
        for name in FILTERS
    ]
    parts = [{"name": name, "in": "path", "required": True, "schema": text} for name in ("token", "name")]
    source = {"name": "source", "in": "query", "schema": {"type": "string", "maxLength": 256}}
    page = {"text/html": {"schema": text}}
    sorry = {
        "default": {
            "description": "an error, as JSON or as a page",
            "content": {JSON: {"schema": {"$ref": REF + "Failed"}}, **page},
        }
    }
    anything = {JSON: {"schema": {}}, FORM: {"schema": {"type": "object", "additionalProperties": text}}}
    return {
        "/v1/events": {
            "get": {
                "operationId": "events",
                "summary": "audit events as they happen, as server-sent events",
                "parameters": filters,
                "responses": {
                    "200": _answer("a stream that does not end", text, "text/event-stream"),
                    **failed,
                },
            }
        },
        "/v1/signals/{token}/{name}": {
            "parameters": [*parts, source],
            "get": {
                "operationId": "signal.page",
                "summary": "a page that asks to confirm; changes nothing",
                "security": [],
                "responses": {"200": {"description": "the page", "content": page}, **sorry},
            },
            "post": {
                "operationId": "signal.link",
                "summary": "send the signal of a link; the body is its payload",
                "security": [],
                "requestBody": {"content": anything},
                "responses": {
                    "200": {
                        "description": "what the signal did, as JSON, or as a page for browsers",
                        "content": {JSON: {"schema": {"$ref": REF + "Delivered"}}, **page},
                    },
                    **sorry,
                },
            },
        },
        "/v1/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "this description",
                "security": [],
                "responses": {"200": _answer("this description", {"type": "object"}), **failed},
            }
        },
    }
