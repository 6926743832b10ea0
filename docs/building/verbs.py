"""The verbs: what each takes and gives, in tables, with a request to try."""

import json
from typing import Any

from building.schemas import Schema, example, fields, words
from penstock.messages.common import Message, Page, Reply, Request
from penstock.refusals import ANY, errors_of
from penstock.schemas import Schemas
from penstock.verbs import VERBS, Verb

SCHEMAS = Schemas()
ABOUT = """\
# Verbs

Every verb is an endpoint of a NATS micro service on `<root>.v1.<verb>`, and takes a JSON object. Its service is
named with it. Where it says *batches*, an array of up to 10,000 requests is taken too, and answered by an array of
`{"ok": …}` and `{"error": …}` in the same order. With each verb are the [errors](errors.md) that are its own; besides,
any may answer MANY. The
JSON Schemas themselves are in [asyncapi.json](asyncapi.json), and in what `nats micro info` shows.
"""


def page() -> str:
    parts = [ABOUT.replace("MANY", ", ".join(map(_code, sorted(ANY))))]
    for resource in dict.fromkeys(name.split(".")[0] for name in VERBS):
        parts.append(f"## {resource.replace('_', ' ').capitalize()}")
        parts += [_verb(verb) for verb in VERBS.values() if verb.name.split(".")[0] == resource]
    return "\n\n".join([*parts, "## Types", *_types()]) + "\n"


def request_of(verb: Verb[Any, Any]) -> Any:
    """Return a small request that the verb's type takes."""
    return example(SCHEMAS.of(verb.request), SCHEMAS.components)


def _verb(verb: Verb[Any, Any]) -> str:
    facts = [verb.service, *(["batches"] if verb.batch else [])]
    asked = json.dumps(request_of(verb))
    return "\n\n".join(
        [
            f"### {verb.name} {{ #{verb.name.replace('.', '-').replace('_', '-')} }}",
            f"*{', '.join(facts)}*",
            *_said(verb.request),
            f"```sh\nnats req penstock.v1.{verb.name} '{asked}'\n```",
            _fields(verb.request),
            f"Answers {_answer(verb)}.",
            *_errors(verb),
        ]
    )


def _answer(verb: Verb[Any, Any]) -> str:
    if issubclass(getattr(verb.reply, "__origin__", verb.reply), Page):
        items = _resolved(SCHEMAS.of(verb.reply))["properties"]["items"]
        return f"a page: `items`, a {words(items)}, and `cursor`"
    return words(SCHEMAS.of(verb.reply))


def _errors(verb: Verb[Any, Any]) -> list[str]:
    own = errors_of(verb)
    return [f"Errors: {', '.join(map(_code, own))}."] if own else []


def _code(code: str) -> str:
    return f"[`{code}`](errors.md#{code})"


def _fields(type_: Any) -> str:
    schema = _resolved(SCHEMAS.of(type_))
    return fields(schema) if schema.get("properties") else "It takes no fields."


def _types() -> list[str]:
    """Return a section for each named type but those that are nothing else than what a verb takes."""
    inside = json.dumps(SCHEMAS.components)
    asked = {SCHEMAS.of(verb.request).get("$ref", "").rsplit("/", 1)[-1] for verb in VERBS.values()}
    parts: list[str] = []
    for name, schema in sorted(SCHEMAS.components.items()):
        if (
            (name in asked and f'/{name}"' not in inside)
            or name.startswith("Page")
            or not name.isidentifier()
        ):
            continue
        text = schema.get("description", "")
        parts += [f"### {name}", *([_plain(text)] if text else []), fields(schema)]
    return parts


def _said(type_: type[Message]) -> list[str]:
    text = type_.__dict__.get("__doc__") or ""
    return [] if type_ in (Request, Reply) or not text else [_plain(text)]


def _plain(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _resolved(schema: Schema) -> Schema:
    return SCHEMAS.components[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
