"""How many of each thing clients may make: one more is refused, and changes nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.ids import new_id
from state_machine import StateMachine

WORKER = {"lanes": ["default"], "heartbeat_ms": 10_000}
RULE = {"kind": "rule", "body": "{}"}
BULK = {"filter": "{}", "action": "cancel", "rate": 1}
SCHEDULE = {"every_ms": 3_600_000, "spec": {"kind": "t"}}


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


@pytest.mark.parametrize(
    ("service", "op", "args", "index", "most", "field"),
    [
        ("lease-keeper", "worker_register", {"worker_id": "w", **WORKER}, "workers", 10_000, "worker_id"),
        ("lease-keeper", "worker_heartbeat", {"worker_id": "w", **WORKER}, "workers", 10_000, "worker_id"),
        (
            "lease-keeper",
            "kinds_tell",
            {"told": [{"kind": "k", "input": None, "description": ""}], "lanes": ["default"]},
            "kind-names",
            10_000,
            "schemas",
        ),
        ("mirror-observer", "rule_put", {"name": "r", **RULE}, "rules", 500, "name"),
        ("mirror-observer", "rule_put", {"name": "r", **RULE, "kind": "trigger"}, "triggers", 500, "name"),
        ("scheduler", "bulk_create", {"id": new_id(0), **BULK}, "bulks:running", 100, "action"),
        ("scheduler", "schedule_create", {"id": new_id(0), **SCHEDULE}, "schedules:active", 100_000, "execution"),
        ("scheduler", "schedule_create", {"id": new_id(0), **SCHEDULE}, "schedules:paused", 100_000, "execution"),
    ],
)  # fmt: skip
async def test_one_more_is_refused(
    machine: StateMachine, service: str, op: str, args: dict[str, Any], index: str, most: int, field: str
) -> None:
    key = f"{machine.root}:{{0}}:{index}"
    execute = machine.stores[service].execute
    for begin in range(0, most - 1, 1000):  # their names alone: what is counted
        names = (f"n{n}" for n in range(begin, min(begin + 1000, most - 1)))
        await execute("ZADD", key, *(each for name in names for each in (0, name)))
    spare: dict[str, Any] = {"name": "last"} if "name" in args else {}
    if "worker_id" in args:
        spare["worker_id"] = "last"
    if "id" in args:
        spare["id"] = new_id(0)
    if "told" in args:
        spare["told"] = [{**args["told"][0], "kind": "last"}]
    if index != "schedules:paused":
        await machine(service, op, **args | spare)
    else:
        await execute("ZADD", key, 0, "last")
    assert await execute("ZCARD", key) == most
    error = await machine.refused(service, op, **args)
    assert (error.code, error.detail["field"]) == ("invalid_request", field)
    assert f"there are {most} of them already" in error.message
    assert await execute("ZCARD", key) == most
    if op in ("worker_heartbeat", "kinds_tell", "rule_put"):
        await machine(service, op, **args | spare)  # what is there may be told again
