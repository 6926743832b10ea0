"""Random requests of every verb, and random messages for every published subject, the same ones for a seed.

The requests are generated from the JSON Schemas that `$SRV.INFO` shows, about as often at a schema's bounds and beyond
them as within. Some of their ids are those of existing records. The messages are what their subject expects, with
wrong fields, cut short, or random bytes.
"""

import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from penstock.bus.streams import EVENTS_IN, OBSERVATIONS, SIGNALS, stream_name
from penstock.verbs import VERBS
from running_penstock import NOWHERE, fence

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


Ask = Callable[[str, Any], Awaitable[Any]]
"""`await ask("execution.create", body)` sends a verb and returns its answer."""


def requests(verb: str, ids: list[str], pick: random.Random, count: int) -> list[Any]:
    """Return random requests of a verb, none of which waits."""
    schema = msgspec.json.schema(VERBS[verb].request)
    defs = schema.get("$defs", {})
    waits = "wait_ms" in VERBS[verb].request.__struct_fields__
    made = [value(schema, defs, ids, pick) for _ in range(count)]
    return [impatient(wrong(each, pick), waits) for each in made]


def impatient(request: Any, waits: bool) -> Any:
    """Set `wait_ms` to 0 if the verb has that field, so that no request waits."""
    if waits and isinstance(request, dict) and isinstance(request.get("wait_ms", 0), int):
        return {**request, "wait_ms": 0}
    return request


async def make_records(ask: Ask) -> list[str]:
    """Create records of each kind, in different states. Return their ids, and one id that does not exist."""
    spec = {"kind": "test.job", "max_attempts": 3, "tags": {"a": "b"}}
    made = [(await ask("execution.create", {**spec, "input": n}))["execution_id"] for n in range(6)]
    take = {"worker_id": "w1", "max": 3, "wait_ms": 5000, "start": True}
    for task in (await ask("work.next", take))["tasks"]:
        await ask("lease.progress", {**fence(task), "pct": 1})
    flow = {"controller_id": "c", "owner": "o", "goal": "g"}
    made.append((await ask("flow.create", {**flow, "members": [{"key": "a", "kind": "k"}]}))["flow_id"])
    made.append((await ask("flow.create_mirrored", flow))["flow_id"])
    made.append((await ask("quota.create", {"max_concurrent": 1}))["quota_id"])
    made.append((await ask("budget.create", {"dimensions": {"n": {"hard": 5}}}))["budget_id"])
    job = {"every_ms": 3_600_000, "execution": {"kind": "k"}}
    made.append((await ask("schedule.create", job))["schedule_id"])
    return [*made, "0-01890000-0000-7000-8000-000000000000"]


Message = tuple[str, bytes, dict[str, str]]
"""Subject, body, headers."""


VALUES: list[Any] = [
    None,
    "",
    "x",
    "ü\u0000",
    "succeeded",
    "running",
    0,
    -1,
    2**53 + 1,
    2**64,
    1.5,
    True,
    [],
    {},
]
HEADER_VALUES = ["", "1", "-1", "9" * 30, "ünï", "x" * 3000, "{}", "2026-11-28T00:00:00Z", "1e400", "%00"]


class Noise:
    """Random bodies and headers, the same ones in every run."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def body(self, good: dict[str, Any]) -> bytes:
        """Return the good body, or one that is wrong in a field, cut short, or nothing but bytes."""
        pick = self.pick
        match pick.randrange(5):
            case 0:
                return msgspec.json.encode(good)
            case 1:
                return pick.randbytes(pick.choice([0, 1, 7, 400]))
            case 2:
                whole = msgspec.json.encode(good)
                return whole[: pick.randrange(len(whole))]
            case 3:
                return b"[" * pick.choice([1, 500, 20_000])
            case _:
                return msgspec.json.encode({**good, pick.choice([*good, "more"]): pick.choice(VALUES)})

    def headers(self, names: list[str], token: str = "") -> dict[str, str]:
        """Return some of the headers that the services read, and one that they do not."""
        pick = self.pick
        found = {name: pick.choice(HEADER_VALUES) for name in names if pick.random() < 0.4}
        if token and pick.random() < 0.6:
            found["Penstock-Token"] = pick.choice([token, token[:-1], token.upper()])
        return {**found, f"X-{pick.randrange(10**6)}": "noise"}


class Published:
    """Random messages for the subjects that are published to, and for a stream of another system.

    A mirror rule follows that stream. Some messages name an existing waitpoint, with its token,
    an existing flow or topic.
    """

    COMMON = ["Penstock-Message-Id", "Penstock-Request-Id", "Penstock-Correlation-Id", "traceparent"]
    STEP = {"run_id": "r", "task": "t", "status": "running", "observed_at": 5}
    FLOW = {"controller_id": "c", "goal": "g", "owner": "o"}

    def __init__(self, root: str, noise: Noise, waitpoint: dict[str, Any], flow_id: str) -> None:
        self.other = f"other-{root}"
        self._root = root
        self._noise = noise
        self._waitpoint = waitpoint
        self._flow_id = flow_id
        self.streams: dict[str, Callable[[], Message]] = {
            stream_name(root, SIGNALS): self._signal,
            stream_name(root, OBSERVATIONS): self._observation,
            stream_name(root, EVENTS_IN): self._event,
            self.other.upper(): self._mirrored,
        }
        """What makes a message, by the stream that stores it."""

    @classmethod
    async def prepare(cls, ask: Ask, js: Any, root: str, noise: Noise) -> "Published":
        """Create a waitpoint, a mirrored flow, the other system's stream and the rule."""
        await ask("execution.create", {"kind": "test.job"})
        take = {"worker_id": "w1", "max": 1, "wait_ms": 5000, "start": True}
        [task] = (await ask("work.next", take))["tasks"]
        waitpoint = await ask("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
        flow_id = (await ask("flow.create_mirrored", cls.FLOW))["flow_id"]
        made = cls(root, noise, waitpoint, flow_id)
        await js.add_stream(name=made.other.upper(), subjects=[f"{made.other}.>"])
        await ask(
            "mirror_rule.put",
            {
                "name": "noise",
                "subject": f"{made.other}.build.*",
                "stream": made.other.upper(),
                "flow": {"key": {"token": 3}, "create": {**cls.FLOW, "goal": "build {key}"}},
                "run_id": {"jmespath": "job.id"},
                "task": {"header": "X-Task"},
                "status": {"jmespath": "state"},
                "observed_at": {"header": "X-At"},
            },
        )
        return made

    def _signal(self) -> Message:
        noise = self._noise
        to = noise.pick.choice([self._waitpoint["waitpoint_id"], NOWHERE, "nonsense"])
        name = noise.pick.choice(["approved", "ü", "x" * 300])
        headers = noise.headers(self.COMMON, self._waitpoint["token"])
        return f"{self._root}.signal.{to}.{name}", noise.body({"a": 1}), headers

    def _observation(self) -> Message:
        noise = self._noise
        to = noise.pick.choice([self._flow_id, NOWHERE, "nonsense"])
        body = noise.body({"flow_id": self._flow_id, **self.STEP})
        return f"{self._root}.observation.{to}", body, noise.headers(self.COMMON)

    def _event(self) -> Message:
        topic = self._noise.pick.choice(["ci.build", "ü", "x" * 300])
        return f"{self._root}.event.{topic}", self._noise.body({"a": 1}), self._noise.headers(self.COMMON)

    def _mirrored(self) -> Message:
        key = self._noise.pick.choice(["1", "ü", "x" * 300])
        body = self._noise.body({"job": {"id": "r"}, "state": "running"})
        return f"{self.other}.build.{key}", body, self._noise.headers([*self.COMMON, "X-Task", "X-At"])
