"""Whatever a request holds has a bound: a client can make nothing grow beyond it with one request."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from penstock.verbs import VERBS

_repeats_without_end = re.compile(r"(?<!\\)[*+]|\{\d+,\}").search
AS_LARGE_AS_A_PAYLOAD = {
    "state_patch",  # flow.update_state and its kin: the state that comes of it is held against the payload's limit
    "sample",  # mirror_rule.test, trigger.test: nothing is kept
    "data",
    "headers",
    "input",  # of a worker's schemas: 64 KiB (penstock_lease_keeper.kinds)
    "members",  # of a trigger's flow, as `edges` and `joins`: a rule or trigger has at most 64 KiB
    "edges",
    "joins",
}


def unbounded(schema: dict[str, Any], defs: dict[str, Any], path: str, seen: set[str]) -> Iterator[str]:
    """Yield the places in a schema that have no bound."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from unbounded(defs[name], defs, path, seen | {name})
        return
    for each in schema.get("anyOf", []):
        yield from unbounded(each, defs, path, seen)
    match schema.get("type"):
        case "string" if "enum" not in schema:
            if "maxLength" not in schema and _repeats_without_end(schema.get("pattern", "*")):
                yield path
        case "array":
            if "maxItems" not in schema:
                yield path
            yield from unbounded(schema.get("items") or {}, defs, path + "[]", seen)
        case "object" if "properties" in schema:
            for name, each in schema["properties"].items():
                yield from unbounded(each, defs, f"{path}.{name}", seen)
        case "object":
            if "maxProperties" not in schema:
                yield path
            inner = schema.get("additionalProperties")
            if isinstance(inner, dict):
                yield from unbounded(inner, defs, path + "{}", seen)
        case "integer" if "minimum" not in schema or "maximum" not in schema:
            yield path
        case _:
            pass


@pytest.mark.parametrize("verb", VERBS)
def test_every_field_of_a_request_has_a_bound(verb: str) -> None:
    schema = msgspec.json.schema(VERBS[verb].request)
    places = list(unbounded(schema, schema.get("$defs", {}), "", set()))
    names = [each.rpartition(".")[2].rstrip("[]{}") for each in places]
    assert [
        place for place, name in zip(places, names, strict=True) if name not in AS_LARGE_AS_A_PAYLOAD
    ] == []
