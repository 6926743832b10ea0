"""Send every verb requests that its schema allows or forbids: no answer is malformed, and none is `internal`."""

import asyncio
import random
from typing import Any

import msgspec

import fuzzing
from penstock.errors import TABLE
from penstock.verbs import VERBS
from running_penstock import RunningPenstock

REQUESTS = 5000
PER_BATCH = 25
SEED = 7


def check(verb: str, request: Any, answer: Any) -> None:
    assert isinstance(answer, dict), (verb, request, answer)
    if "error" in answer and set(answer) == {"error"}:
        error = answer["error"]
        assert error["code"] in TABLE, (verb, request, error)
        assert error["code"] not in ("internal", "valkey_unavailable"), (verb, request, error)


async def test_no_request_is_a_bug(penstock: RunningPenstock) -> None:
    pick = random.Random(SEED)
    records = await fuzzing.make_records(penstock.request)
    each = 1 + REQUESTS // PER_BATCH // len(VERBS)
    batches = [
        (name, fuzzing.requests(name, records, pick, PER_BATCH)) for name in VERBS for _ in range(each)
    ]
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
