"""JSON Schemas in words, for tables of fields."""

import json
import re
from typing import Any

Schema = dict[str, Any]


def fields(schema: Schema) -> str:
    """Return an object's fields as a table in Markdown."""
    required = schema.get("required", ())
    rows = ["| field | type | |", "| --- | --- | --- |"]
    for name, of in schema.get("properties", {}).items():
        notes = [of.get("description", "")]
        if name in required:
            notes.insert(0, "required")
        elif of.get("default") not in (None, [], {}, ""):
            notes.insert(0, f"default `{json.dumps(of['default'])}`")
        rows.append(f"| `{name}` | {words(of)} | {'; '.join(filter(None, notes))} |")
    return "\n".join(rows)


def words(of: Schema) -> str:
    """Return a schema in a few words, with links to the named ones."""
    if "$ref" in of:
        name = of["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    if "const" in of:
        return f"`{of['const']}`"
    if parts := of.get("anyOf") or of.get("oneOf"):
        return " or ".join(dict.fromkeys(words(part) for part in parts))
    kind = of.get("type", "any JSON value")
    if kind == "array":
        return f"list of {words(of.get('items', {}))}{_bounds(of, 'minItems', 'maxItems')}"
    if kind == "object":
        inner = of.get("additionalProperties")
        return f"object of {words(inner)}" if isinstance(inner, dict) and inner else "object"
    if kind == "string":
        return f"string{_bounds(of, 'minLength', 'maxLength')}"
    if kind == "integer":
        return f"integer{_bounds(of, 'minimum', 'maximum')}"
    return str(kind)


def _bounds(of: Schema, least: str, most: str) -> str:
    low, high = of.get(least), of.get(most)
    if low is None and high is None:
        return ""
    if high is None or high > 10**12:
        return f", from {low:,}" if low else ""
    return f", {low or 0:,} to {high:,}"


def example(of: Schema, components: dict[str, Schema], name: str = "") -> Any:
    """Return a small value that the schema takes: of an object, the required fields."""
    if "$ref" in of:
        return example(components[of["$ref"].rsplit("/", 1)[1]], components, name)
    if "const" in of or "enum" in of:
        return of.get("const", of.get("enum", [None])[0])
    if name in TYPICAL and re.search(of.get("pattern", ""), TYPICAL[name]):
        return TYPICAL[name]
    if parts := of.get("anyOf") or of.get("oneOf"):
        return example(parts[0], components, name)
    kind = of.get("type")
    if kind == "object":
        known = of.get("properties", {})
        made = {each: example(known[each], components, each) for each in of.get("required", ())}
        return (
            made or {"usd_cents": example(of["additionalProperties"], components)}
            if of.get("minProperties")
            else made
        )
    if kind == "array":
        return [example(of.get("items", {}), components, name)] if of.get("minItems") else []
    if kind == "integer":
        return max(1, of.get("minimum", 1))
    if kind == "string" and str(of.get("pattern", "")).startswith("^[0-9]{1,5}-"):
        return ID
    return {"string": name or "a", "boolean": True, "number": 1.0}.get(str(kind), {})


ID = "0-0198c5d2-6d8e-7c1a-9f3b-2f4f5a6b7c8d"
TYPICAL = {
    "kind": "mail.send",
    "worker_id": "worker-1",
    "lease_id": "worker-1_k2v0",
    "lane": "default",
    "token": "0-0198c5d2…",
}
