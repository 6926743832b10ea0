"""Attempt timeouts, deadlines, failure categories and backoff."""

from typing import Any

import pytest

from lifecycles import HOUR_MS, now, outcome, running
from running_penstock import WAIT_S, RunningPenstock, fence


async def test_an_attempt_that_takes_too_long(penstock: RunningPenstock) -> None:
    task = await running(penstock, max_attempts=2, attempt_timeout_ms=5000, backoff={"delay_ms": 0})
    told = await penstock.nats.subscribe(f"{penstock.root}.worker.w1", max_msgs=1)
    penstock.move_clock(5001)
    assert (await told.next_msg(timeout=WAIT_S)).data
    assert (await penstock.refused("lease.complete", fence(task))).code == "lease_revoked"
    again = await penstock.begin()
    assert again["attempt_index"] == 2
    assert (await penstock.refused("lease.complete", fence(task))).code == "stale_lease"
    penstock.move_clock(5001)
    record = await penstock.reaches(task["execution_id"], "failed")
    assert record["failure"]["category"] == "timeout"


async def test_a_suspension_does_not_use_an_attempts_time(penstock: RunningPenstock) -> None:
    task = await running(penstock, attempt_timeout_ms=5000)
    await outcome(penstock, "delay", task, until=await now(penstock) + HOUR_MS)
    penstock.move_clock(HOUR_MS + 1)
    again = await penstock.begin()
    assert (await outcome(penstock, "complete", again))["state"] == "completed"


async def test_deadlines(penstock: RunningPenstock) -> None:
    deadline = await now(penstock) + 60_000
    ready = await penstock.create(deadline_at=deadline, lane="r")
    scheduled = await penstock.create(deadline_at=deadline, run_at=deadline - 1, lane="s")
    run = await penstock.create(deadline_at=deadline)
    await penstock.begin(lease_ttl_ms=HOUR_MS)
    delayed = await running(penstock, deadline_at=deadline)
    await outcome(penstock, "delay", delayed, until=deadline + HOUR_MS)
    penstock.move_clock(60_001)
    assert (await penstock.reaches(ready, "canceled"))["outcome"] == "canceled"
    await penstock.reaches(scheduled, "canceled")
    record = await penstock.reaches(run, "failed")
    assert record["failure"]["category"] == "deadline_exceeded"
    await penstock.reaches(delayed["execution_id"], "failed")
    error = await penstock.refused("execution.create", {"kind": "k", "deadline_at": deadline})
    assert (error.code, error.detail) == ("invalid_request", {"field": "deadline_at"})


@pytest.mark.parametrize(
    ("spec", "category", "retried"),
    [
        ({"retry_on": ["net"]}, "net", True),
        ({"retry_on": ["net"]}, "disk", False),
        ({"fail_on": ["disk"]}, "net", True),
        ({"fail_on": ["disk"]}, "disk", False),
        ({"retry_on": ["net"], "fail_on": ["net"]}, "net", False),
    ],
)
async def test_categories(
    penstock: RunningPenstock, spec: dict[str, Any], category: str, retried: bool
) -> None:
    task = await running(penstock, max_attempts=2, **spec)
    reply = await outcome(penstock, "fail", task, reason="r", category=category)
    assert reply["outcome"] == ("retry_scheduled" if retried else "terminal_failed")


@pytest.mark.parametrize(
    ("backoff", "attempt", "low", "high"),
    [
        ({"kind": "fixed", "delay_ms": 7000}, 2, 7000, 7000),
        ({"kind": "exponential", "delay_ms": 1000, "factor": 3}, 3, 9000, 9000),
        ({"kind": "exponential", "delay_ms": 1000, "factor": 10, "max_ms": 5000}, 3, 5000, 5000),
        ({"kind": "fixed", "delay_ms": 100_000, "jitter": 0.5}, 1, 50_000, 100_000),
    ],
)
async def test_backoff(
    penstock: RunningPenstock, backoff: dict[str, Any], attempt: int, low: int, high: int
) -> None:
    await penstock.create(max_attempts=10, backoff=backoff)
    for index in range(1, attempt + 1):
        task = await penstock.begin()
        assert task["attempt_index"] == index
        reply = await outcome(penstock, "fail", task, reason="r")
        record = await penstock.get(task["execution_id"])
        wait_ms = reply["ready_at"] - record["updated_at"]
        penstock.move_clock(wait_ms + 1)
    assert low <= wait_ms <= high


async def test_jitter_is_random(penstock: RunningPenstock) -> None:
    waits: set[int] = set()
    for _ in range(8):
        backoff = {"kind": "fixed", "delay_ms": 1_000_000, "jitter": 1}
        task = await running(penstock, max_attempts=2, backoff=backoff)
        reply = await outcome(penstock, "fail", task, reason="r")
        waits.add(reply["ready_at"] - (await penstock.get(task["execution_id"]))["updated_at"])
    assert len(waits) > 1
