"""Lanes are paused, drained and resumed (contract §3); tested over NATS only."""

import asyncio
from typing import Any

import msgspec
import pytest

from running_penstock import WAIT_S, RunningPenstock, fence


async def lane(penstock: RunningPenstock, name: str) -> dict[str, Any]:
    lanes = (await penstock.request("lane.list"))["items"]
    return next(each for each in lanes if each["lane"] == name)


async def test_a_paused_lane_hands_nothing_out(penstock: RunningPenstock) -> None:
    held = await penstock.create(lane="l")
    paused = await penstock.request("lane.pause", {"lane": "l", "reason": "maintenance"})
    assert (paused["status"], paused["depth"]["ready"]) == ("paused", 1)
    assert await lane(penstock, "l") | {"oldest_ready_age_ms": 0} == paused | {"oldest_ready_age_ms": 0}
    assert (await penstock.get(held))["reason"] == "lane_paused"
    assert await penstock.take(lanes=["l"], wait_ms=50) == []
    # A paused lane still accepts work, and other lanes still hand work out.
    other = await penstock.create(lane="l")
    free = await penstock.create(lane="free")
    assert [task["execution_id"] for task in await penstock.take(lanes=["l", "free"])] == [free]
    assert (await penstock.get(other))["state"] == "ready"


async def test_a_grant_from_before_the_pause_is_refused(penstock: RunningPenstock) -> None:
    await penstock.create(lane="l")
    grant = (await penstock.request("work.grant", {"worker_id": "w1", "lanes": ["l"]}))["items"][0]
    await penstock.request("lane.pause", {"lane": "l"})
    body = {"worker_id": "w1", "grant_id": grant["grant_id"], "execution_id": grant["execution_id"]}
    error = await penstock.refused("lease.claim", body)
    assert (error.code, error.detail["reason"]) == ("execution_not_in_eligible_set", "lane_paused")


async def test_what_runs_goes_on(penstock: RunningPenstock) -> None:
    await penstock.create(lane="l")
    task = await penstock.begin(lanes=["l"])
    await penstock.request("lane.pause", {"lane": "l"})
    assert (await penstock.request("lease.renew", fence(task)))["expires_at"]
    assert (await penstock.request("lease.complete", fence(task)))["state"] == "completed"


async def test_resume_wakes_parked_workers_at_once(nats_url: str, valkey_url: str) -> None:
    # The sweep comes too late (every ten minutes), so the resume itself must wake the worker.
    async with RunningPenstock.open(nats_url, valkey_url, sweep_ms=600_000) as penstock:
        execution_id = await penstock.create(lane="l")
        await penstock.request("lane.pause", {"lane": "l"})
        parked = asyncio.create_task(penstock.take(lanes=["l"], wait_ms=20_000))
        # Requests are handled in order: when this later one is answered, the first worker is parked.
        assert await penstock.take(lanes=["l"], wait_ms=0) == []
        assert (await penstock.request("lane.resume", {"lane": "l"}))["status"] == "active"
        assert [task["execution_id"] for task in await parked] == [execution_id]
        assert (await penstock.get(execution_id))["reason"] is None


async def test_a_draining_lane_hands_out_what_it_has_and_takes_no_more(penstock: RunningPenstock) -> None:
    execution_id = await penstock.create(lane="l", max_attempts=2, backoff={"delay_ms": 1})
    assert (await penstock.request("lane.drain", {"lane": "l"}))["status"] == "draining"
    error = await penstock.refused("execution.create", {"kind": "k", "lane": "l"})
    assert error.code == "execution_not_eligible"
    assert error.detail == {"lane": "l", "lane_status": "draining"}
    flow = {
        "controller_id": "c",
        "goal": "g",
        "owner": "o",
        "members": [{"key": "a", "kind": "k", "lane": "l"}],
    }
    assert (await penstock.refused("flow.create", flow)).code == "execution_not_eligible"
    # Executions that are already in the lane run to their end, retries included.
    task = await penstock.begin(lanes=["l"])
    await penstock.request("lease.fail", {**fence(task), "reason": "r"})
    again = await penstock.begin(lanes=["l"])
    await penstock.request("lease.complete", fence(again))
    assert again["execution_id"] == execution_id
    error = await penstock.refused("execution.replay", {"execution_id": execution_id})
    assert error.code == "execution_not_eligible" and error.detail["lane_status"] == "draining"
    await penstock.request("lane.resume", {"lane": "l"})
    await penstock.create(lane="l")


async def test_one_bad_lane_does_not_hurt_the_rest_of_a_batch(penstock: RunningPenstock) -> None:
    await penstock.create(lane="l")
    await penstock.request("lane.drain", {"lane": "l"})
    batch = [{"kind": "k", "lane": "l"}, {"kind": "k"}]
    answers = await penstock.request("execution.create", batch)
    assert answers[0]["error"]["code"] == "execution_not_eligible" and "ok" in answers[1]


@pytest.mark.parametrize("verb", ["lane.pause", "lane.resume", "lane.drain"])
async def test_a_lane_that_nobody_has_seen(penstock: RunningPenstock, verb: str) -> None:
    await penstock.create(lane="l")
    error = await penstock.refused(verb, {"lane": "L"})
    assert (error.code, error.detail) == ("lane_not_found", {"lane": "L"})
    error = await penstock.refused(verb, {"lane": "l", "why": 1})
    assert (error.code, error.detail["field"]) == ("invalid_request", "why")


async def test_changes_are_events_and_repeats_are_none(penstock: RunningPenstock) -> None:
    heard = await penstock.nats.subscribe(f"{penstock.root}.audit.*.lane.*.l")
    await penstock.create(lane="l")
    for verb in ("pause", "pause", "drain", "resume", "resume"):
        await penstock.request(f"lane.{verb}", {"lane": "l", "reason": verb})
    events = [msgspec.json.decode((await heard.next_msg(timeout=WAIT_S)).data) for _ in range(3)]
    assert [(e["seq"], e["event"], e["from"], e["to"], e["reason"]) for e in events] == [
        (1, "paused", "active", "paused", "pause"),
        (2, "draining", "paused", "draining", "drain"),
        (3, "resumed", "draining", "active", "resume"),
    ]


async def test_over_many_partitions(nats_url: str, valkey_url: str) -> None:
    async with RunningPenstock.open(nats_url, valkey_url, partitions=4) as penstock:
        ids = [await penstock.create(lane="l") for _ in range(20)]
        assert len({each.partition("-")[0] for each in ids}) > 1
        paused = await penstock.request("lane.pause", {"lane": "l"})
        assert paused["depth"]["ready"] == 20
        assert await penstock.take(20, lanes=["l"], wait_ms=50) == []
        for execution_id in ids:
            assert (await penstock.get(execution_id))["reason"] == "lane_paused"
        await asyncio.gather(
            *(penstock.request(f"lane.{verb}", {"lane": "l"}) for verb in ("drain", "resume") * 5)
        )
        final = await penstock.request("lane.resume", {"lane": "l"})
        assert final["status"] == "active"
        taken: list[str] = []
        while len(taken) < 20:
            taken += [task["execution_id"] for task in await penstock.take(20, lanes=["l"])]
        assert sorted(taken) == sorted(ids)
