"""`make soak ARGS="--fuzz 100000"`: random requests and messages, without faults: no crash, no bug, no growth.

The run is made of rounds. Each makes some records, sends its share of the requests and a tenth as many published
messages, and then removes, as an operator would, all that it has made. When the retention has passed, memory is sampled
(growth.py).
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

import fuzzing
from commands import BARE, Up
from penstock.bus import connection
from penstock.errors import TABLE
from penstock.verbs import VERBS
from soak import growth, streams
from soak.growth import Sample

ROUNDS: Final = 10
AT_ONCE: Final = 40
PER_BATCH: Final = 25
ANSWER_S: Final = 30.0
LEAVE_S: Final = 120.0
LOOK_S: Final = 0.5
KEPT_MS: Final = 1000
LONGEST_NAME: Final = 20
SETTINGS: Final = {
    f"PENSTOCK_{name}": str(KEPT_MS)
    for name in ("RETENTION_MS", "IDEMPOTENCY_TTL_MS", "EVENT_TTL_MS", "SWEEP_MS")
}
"""All that is kept for a while is kept for a second."""
BUGS: Final = ("internal", "valkey_unavailable", "timeout")
REMOVED_BY: Final = {
    "schedule.list": ("schedule.delete", "schedule_id"),
    "mirror_rule.list": ("mirror_rule.delete", "name"),
    "trigger.list": ("trigger.delete", "name"),
    "bulk.list": ("bulk.stop", "bulk_id"),
    "execution.list": ("execution.cancel", "execution_id"),
    "flow.list": ("flow.cancel", "flow_id"),
}
"""What lists things, and what removes or ends one of them by which of its fields."""


@dataclass
class Result:
    """What a fuzz run has shown."""

    seed: int
    requests: int = 0
    published: int = 0
    codes: Counter[str] = field(default_factory=Counter[str])
    samples: list[Sample] = field(default_factory=list[Sample])
    problems: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    """What was left in Valkey at the end."""

    @property
    def ok(self) -> bool:
        return not self.problems


class Fuzz:
    """Sends requests of random verbs, and notes in `result` what no service should have said."""

    def __init__(self, nats: Any, root: str, seed: int, result: Result) -> None:
        self._nats = nats
        self._root = root
        self._js = nats.jetstream()
        self._pick = random.Random(seed)
        self._noise = fuzzing.Noise(seed)
        self._result = result
        self._limits: set[tuple[str, str]] = set()

    async def send(self, verb: str, body: Any) -> Any:
        """Send a verb. Return its answer, whatever it is."""
        message = json.dumps(body).encode()
        reply = await self._nats.request(VERBS[verb].subject(self._root), message, timeout=ANSWER_S)
        return json.loads(reply.data)

    async def ask(self, verb: str, body: Any) -> Any:
        """Send a verb that must succeed."""
        answer = await self.send(verb, body)
        assert "error" not in answer, (verb, body, answer)
        self._note(verb, answer)
        return answer

    async def round(self, requests: int) -> None:
        ids = await fuzzing.make_records(self.ask)
        published = await fuzzing.Published.prepare(self.ask, self._js, self._root, self._noise)
        batches = [self._pick.choice(list(VERBS)) for _ in range(requests // PER_BATCH)]
        waiting = iter(batches)

        async def some() -> None:
            for verb in waiting:
                await self._batch(verb, fuzzing.requests(verb, ids, self._pick, PER_BATCH))

        await asyncio.gather(*(some() for _ in range(AT_ONCE)), self._publish(published, requests // 10))
        for stream in published.streams:
            await until(lambda stream=stream: streams.all_handled(self._nats, stream), f"all of {stream}")
        await self._remove_all()
        await self._js.delete_stream(published.other.upper())

    async def _publish(self, published: fuzzing.Published, count: int) -> None:
        makers = list(published.streams.values())
        for begin in range(0, count, PER_BATCH):
            made = [self._pick.choice(makers)() for _ in range(begin, min(begin + PER_BATCH, count))]
            await asyncio.gather(
                *(
                    self._js.publish(subject, body, headers=headers, timeout=ANSWER_S)
                    for subject, body, headers in made
                )
            )
            self._result.published += len(made)

    async def _batch(self, verb: str, requests: list[Any]) -> None:
        requests = [bounded("", each) for each in requests]
        if VERBS[verb].batch:
            answers = await self.send(verb, requests)
            answers = answers if isinstance(answers, list) else [answers] * len(requests)
        else:
            answers = [await self.send(verb, each) for each in requests]
        self._result.requests += len(requests)
        for request, answer in zip(requests, answers, strict=True):
            self._check(verb, request, answer)

    def _check(self, verb: str, request: Any, answer: Any) -> None:
        found = answer if isinstance(answer, dict) else {}
        code = found["error"]["code"] if set(found) == {"error"} else "ok"
        self._result.codes[code] += 1
        if not found or code in BUGS or (code != "ok" and code not in TABLE):
            self._result.problems.append(
                f"{verb} {json.dumps(request)[:500]} was answered {str(answer)[:500]}"
            )
        self._note(verb, found)

    def _note(self, verb: str, answer: dict[str, Any]) -> None:
        """Note a quota or budget that was made: no verb lists them."""
        for kind in ("quota", "budget"):
            if verb == f"{kind}.create" and f"{kind}_id" in answer:
                self._limits.add((kind, answer[f"{kind}_id"]))

    # -- what an operator does to leave nothing behind --------------------------------------------

    async def _remove_all(self) -> None:
        lanes = [lane["lane"] for lane in await self._all("lane.list")]
        await asyncio.gather(*(self.send("lane.resume", {"lane": lane}) for lane in lanes))
        for worker in await self._all("worker.list"):
            told = {"worker_id": worker["worker_id"], "lanes": worker["lanes"], "status": "stopped"}
            await self.send("worker.heartbeat", told)

        async def all_gone() -> bool:
            left = 0
            for listing, (removes, by) in REMOVED_BY.items():
                items = await self._all(listing)
                # What has ended leaves by itself, and refuses to be ended again.
                left += len(items) if listing != "bulk.list" else 0
                await asyncio.gather(*(self.send(removes, removal(removes, by, item[by])) for item in items))
            return left == 0

        await until(all_gone, "an empty Penstock")
        for kind, id in self._limits:
            await self.send(f"{kind}.delete", {f"{kind}_id": id})
        self._limits.clear()

    async def _all(self, listing: str) -> list[Any]:
        found: list[Any] = []
        cursor = None
        while True:
            page = await self.ask(listing, {"cursor": cursor} if cursor else {})
            found += page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return found


def bounded(field: str, value: Any) -> Any:
    """Return a request, or a value in it, with a short retention, and with few names for what keeps a name for ever.

    Those are lanes that were paused once and rules that were deleted: their audit events must go on with their numbers.
    """
    match value:
        case dict():
            return {name: bounded(str(name), each) for name, each in value.items()}
        case list():
            return [bounded(field, each) for each in value]
        case str() if field in ("lane", "lanes", "name") and len(value) > LONGEST_NAME:
            return "a"
        case int() if field == "retention_ms":
            return min(value, KEPT_MS)
        case _:
            return value


def removal(verb: str, by: str, id: str) -> dict[str, Any]:
    match verb:
        case "execution.cancel":
            return {by: id, "grace_ms": 0, "reason": "fuzz"}
        case "flow.cancel":
            return {by: id, "grace_ms": 0, "reason": "fuzz", "policy": "cancel_all"}
        case _:
            return {by: id}


async def until(holds: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(LEAVE_S):
        while not await holds():  # noqa: ASYNC110 - the state is in Valkey and NATS
            await asyncio.sleep(LOOK_S)


async def fuzz(
    folder: Path, *, requests: int, seed: int, say: Callable[[str], None], rounds: int = ROUNDS
) -> Result:
    """Run one fuzz in an empty folder, which then has the logs."""
    result = Result(seed)
    async with Up.open(folder, *BARE, "--partitions", "2", env=SETTINGS) as up:
        facts = up.facts
        before = {**facts["pids"], **facts["server_pids"]}
        password = await asyncio.to_thread(Path(facts["valkey_password_file"]).read_text)
        valkey: Any = Redis.from_url(facts["valkey_url"], password=password.strip())
        nats = await connection.connect(facts["nats_url"], "fuzz")
        try:
            run = Fuzz(nats, facts["root"], seed, result)
            for number in range(1, rounds + 1):
                await run.round(requests // rounds)
                result.samples.append(await sample(result.requests, facts["pids"], valkey))
                say(f"round {number}: {in_words(result.samples[-1])}")
            result.keys = sorted([key.decode() async for key in valkey.scan_iter(count=1000)])
        finally:
            await nats.close()
            await valkey.aclose()
        now = up.facts
        for name, pid in {**now["pids"], **now["server_pids"]}.items():
            if before[name] != pid:
                result.problems.append(f"{name} has ended and was started again")
    result.problems += logged(folder)
    result.problems += growth.growing(result.samples)
    return result


def in_words(now: Sample) -> str:
    services = ", ".join(f"{name} {size >> 10:,}" for name, size in now.rss.items())
    return f"{now.requests:,} requests; Valkey: {now.keys} keys, {now.used_memory >> 10:,} KiB; KiB of {services}"


async def sample(requests: int, pids: dict[str, int], valkey: Any) -> Sample:
    memory = await valkey.info("memory")
    return Sample(
        requests,
        {name: growth.rss(pid) for name, pid in pids.items()},
        memory["used_memory"],
        await valkey.dbsize(),
    )


def logged(folder: Path) -> list[str]:
    """Return the errors that services have logged."""
    found: list[str] = []
    for log in sorted((folder / ".penstock" / "logs").glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if '"level": "error"' in line or '"exception"' in line:
                found.append(f"{log.name}: {line[:1000]}")
    return found
