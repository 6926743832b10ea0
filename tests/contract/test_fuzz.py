"""Send every verb requests that its schema allows or forbids: no answer is malformed, and none is `internal`.

The requests are generated from the JSON Schemas that `$SRV.INFO` shows. Some ids are those of existing records.
"""

import asyncio
import random
import re
from typing import Any

import msgspec
import pytest

from penstock.errors import TABLE
from penstock.verbs import VERBS
from running_penstock import RunningPenstock, fence

REQUESTS = 5000
PER_BATCH = 25
SEED = 7
EDGES = [0, 1, -1, 2**31, 2**53, 2**53 + 1, 253_402_300_799_999, 253_402_300_800_000, 2**64]


def value(
    schema: dict[str, Any], defs: dict[str, Any], ids: list[str], pick: random.Random, depth: int = 0
) -> Any:
    """Return a random value of a schema, about as often at the schema's bounds as within them."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if depth > 5:
        return None
    if "anyOf" in schema:
        return value(pick.choice(schema["anyOf"]), defs, ids, pick, depth)
    if "enum" in schema:
        return pick.choice(schema["enum"])
    match schema.get("type"):
        case "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 2**53)
            return pick.choice([low, high, pick.randint(low, min(high, low + 100)), pick.randint(low, high)])
        case "number":
            return pick.uniform(schema.get("minimum", -1e9), schema.get("maximum", 1e9))
        case "boolean":
            return pick.random() < 0.5
        case "null":
            return None
        case "string":
            return text(schema, ids, pick)
        case "array":
            count = pick.randint(schema.get("minItems", 0), min(schema.get("maxItems", 3), 3))
            return [value(schema.get("items", {}), defs, ids, pick, depth + 1) for _ in range(count)]
        case "object" if "properties" in schema:
            needed = set(schema.get("required", ()))
            return {
                name: value(each, defs, ids, pick, depth + 1)
                for name, each in schema["properties"].items()
                if name in needed or pick.random() < 0.4
            }
        case "object":
            inner = schema.get("additionalProperties") or {}
            return {
                name: value(inner, defs, ids, pick, depth + 1)
                for name in pick.sample(["a", "b", "n"], pick.randint(0, 2))
            }
        case _:
            return pick.choice([None, 1, "x", [1, {"a": None}], {"k": "ü"}])


def text(schema: dict[str, Any], ids: list[str], pick: random.Random) -> str:
    if pattern := schema.get("pattern"):
        known = [*ids, *(each.partition("-")[2] for each in ids), "a", "default", "mail.send", "7", "w1"]
        fitting = [each for each in known if re.search(pattern, each)]
        return pick.choice(fitting or known)
    longest = min(schema.get("maxLength", 40), 5000)
    return pick.choice(["", "a", "Ünï\u0000cödé", "{}", "x" * longest])[: schema.get("maxLength")]


def wrong(request: Any, pick: random.Random) -> Any:
    """Sometimes set one field of the request to a value of another type or out of bounds."""
    if isinstance(request, dict) and request and pick.random() < 0.3:
        name = pick.choice(sorted(request))
        request = {**request, name: pick.choice([None, "", [], {}, True, 1.5, *EDGES])}
    return request


def impatient(request: Any, waits: bool) -> Any:
    """Set `wait_ms` to 0 if the verb has that field, so that no request waits."""
    if waits and isinstance(request, dict) and isinstance(request.get("wait_ms", 0), int):
        return {**request, "wait_ms": 0}
    return request


@pytest.fixture
async def records(penstock: RunningPenstock) -> list[str]:
    """Create records of each kind, in different states. Return their ids, and one id that does not exist."""
    made = [await penstock.create(input=n, max_attempts=3, tags={"a": "b"}) for n in range(6)]
    for task in await penstock.take(3, start=True):
        await penstock.request("lease.progress", {**fence(task), "pct": 1})
    flow = {"controller_id": "c", "owner": "o", "goal": "g"}
    made.append(
        (await penstock.request("flow.create", {**flow, "members": [{"key": "a", "kind": "k"}]}))["flow_id"]
    )
    made.append((await penstock.request("flow.create_mirrored", flow))["flow_id"])
    made.append((await penstock.request("quota.create", {"max_concurrent": 1}))["quota_id"])
    made.append((await penstock.request("budget.create", {"dimensions": {"n": {"hard": 5}}}))["budget_id"])
    job = {"every_ms": 3_600_000, "execution": {"kind": "k"}}
    made.append((await penstock.request("schedule.create", job))["schedule_id"])
    return [*made, "0-01890000-0000-7000-8000-000000000000"]


def check(verb: str, request: Any, answer: Any) -> None:
    assert isinstance(answer, dict), (verb, request, answer)
    if "error" in answer and set(answer) == {"error"}:
        error = answer["error"]
        assert error["code"] in TABLE, (verb, request, error)
        assert error["code"] not in ("internal", "valkey_unavailable"), (verb, request, error)


async def test_no_request_is_a_bug(penstock: RunningPenstock, records: list[str]) -> None:
    pick = random.Random(SEED)
    batches: list[tuple[str, list[Any]]] = []
    for name, verb in VERBS.items():
        schema = msgspec.json.schema(verb.request)
        defs = schema.get("$defs", {})
        waits = "wait_ms" in verb.request.__struct_fields__
        for _ in range(1 + REQUESTS // PER_BATCH // len(VERBS)):
            made = [value(schema, defs, records, pick) for _ in range(PER_BATCH)]
            batches.append((name, [impatient(wrong(each, pick), waits) for each in made]))
    pick.shuffle(batches)
    sent = 0
    for name, requests in batches:
        sent += len(requests)
        if VERBS[name].batch:
            answers = await penstock.request(name, requests)
            if isinstance(answers, dict):
                answers = [answers] * len(requests)
        else:
            replies = await asyncio.gather(
                *(penstock.ask(name, msgspec.json.encode(each)) for each in requests)
            )
            answers = [msgspec.json.decode(reply.data) for reply in replies]
        for request, answer in zip(requests, answers, strict=True):
            check(name, request, answer)
    assert sent >= REQUESTS
    assert all(service.health.ready for service in penstock.running.values())
