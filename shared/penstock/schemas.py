"""The JSON Schemas of the contract's messages, for the documents that describe it (AsyncAPI, OpenAPI)."""

from collections.abc import Iterable
from typing import Any, Final, get_args

import msgspec

from penstock.errors import ErrorClass
from penstock.messages.common import Page
from penstock.verbs import MAX_BATCH, VERBS, Verb

REF: Final = "#/components/schemas/"
Schema = dict[str, Any]

ERROR: Final[Schema] = {
    "type": "object",
    "required": ["code", "class", "message", "retryable", "detail"],
    "properties": {
        "code": {"type": "string"},
        "class": {"enum": list(get_args(ErrorClass))},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "detail": {"type": "object"},
        "retry_after_ms": {"type": "integer"},
    },
}
FAILED: Final[Schema] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"$ref": REF + "Error"}},
}


class Schemas:
    """The schemas of the messages of all verbs, and of `more` types. `components` has those that others refer to."""

    def __init__(self, more: Iterable[Any] = ()) -> None:
        types = dict.fromkeys([each for verb in VERBS.values() for each in (verb.request, verb.reply)])
        types |= dict.fromkeys(more)
        shapes, components = msgspec.json.schema_components(types, ref_template=REF + "{name}")
        self._shapes = dict(zip(types, shapes, strict=True))
        self.components: dict[str, Schema] = {**components, "Error": ERROR, "Failed": FAILED}

    def of(self, type_: Any) -> Schema:
        """Return the schema of a type."""
        return self._shapes[type_]

    def request(self, verb: Verb[Any, Any]) -> Schema:
        """Return the schema of what a verb takes: one request, or an array where it takes batches."""
        one = self.of(verb.request)
        if not verb.batch:
            return one
        return {"oneOf": [one, {"type": "array", "items": one, "maxItems": MAX_BATCH}]}

    def reply(self, verb: Verb[Any, Any]) -> Schema:
        """Return the schema of what a verb answers, other than an error."""
        one = self.of(verb.reply)
        if not verb.batch:
            return one
        given = {"ok": one, "error": {"$ref": REF + "Error"}}
        item = [
            {"type": "object", "required": [name], "properties": {name: of}} for name, of in given.items()
        ]
        return {"anyOf": [one, {"type": "array", "items": {"oneOf": item}}]}


def gives_page(verb: Verb[Any, Any]) -> bool:
    """Return whether a verb answers with a page of a list."""
    return issubclass(getattr(verb.reply, "__origin__", verb.reply), Page)
