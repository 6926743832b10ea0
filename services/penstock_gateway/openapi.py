"""The gateway's description in OpenAPI 3.1, made from the verbs and the JSON Schemas of their messages."""

from functools import cache
from typing import Any, Final

import msgspec

from penstock import __version__
from penstock.schemas import REF, Schemas, gives_page
from penstock.verbs import DESCRIPTIONS, VERBS, Verb
from penstock_gateway.answers import JSON
from penstock_gateway.events import AFTER, FILTERS, LAST_EVENT_ID
from penstock_gateway.links import FORM

ABOUT: Final = """\
Every verb of Penstock's contract over HTTP. Bodies and answers are those of NATS; an error has its contract number as
the status and `{"error": …}` as its body. A verb that takes batches takes an array too, and then answers 200 with an
array of `{"ok": …}` and `{"error": …}` in the same order."""

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
    schemas = Schemas()
    paths = {
        f"/v1/{verb.name.replace('.', '/')}": {"post": _operation(verb, schemas)} for verb in VERBS.values()
    }
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Penstock", "version": __version__, "description": ABOUT},
            "tags": [{"name": name} for name in dict.fromkeys(name.split(".")[0] for name in VERBS)],
            "paths": {**paths, **_others()},
            "security": [{"bearer": []}],
            "components": {
                "schemas": schemas.components,
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


def _operation(verb: Verb[Any, Any], schemas: Schemas) -> dict[str, Any]:
    request, reply = schemas.request(verb), schemas.reply(verb)
    gives = "a page" if gives_page(verb) else "the reply"
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
    number = {"type": "string", "pattern": "^[0-9]{1,18}$"}
    since = [
        {"name": AFTER, "in": "query", "description": "begin after the event with this id", "schema": number},
        {
            "name": LAST_EVENT_ID,
            "in": "header",
            "description": "the same, as a client sends it that reconnects",
            "schema": number,
        },
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
                "parameters": filters + since,
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
        **{
            f"/v1/{name}.json": {
                "get": {
                    "operationId": name,
                    "summary": text,
                    "security": [],
                    "responses": {"200": _answer(text, {"type": "object"}), **failed},
                }
            }
            for name, text in (
                ("openapi", "this description"),
                ("asyncapi", "Penstock's NATS subjects, in AsyncAPI"),
            )
        },
    }
