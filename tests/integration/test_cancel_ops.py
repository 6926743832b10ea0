"""The cancel-reconciler's ops, on a real Valkey."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.ids import new_id
from running_penstock import NOWHERE
from state_machine import StateMachine

RECONCILER = "cancel-reconciler"


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


async def cancel(machine: StateMachine, execution_id: str, grace_ms: int = 10_000) -> str:
    reply = await machine(RECONCILER, "cancel", execution_id=execution_id, reason="enough", grace_ms=grace_ms)
    return reply["state"]


async def cancel_flow(
    machine: StateMachine, flow_id: str, policy: str = "cancel_all", **more: Any
) -> dict[str, Any]:
    args = {"policy": policy, "reason": "enough", "grace_ms": 10_000, **more}
    return await machine(RECONCILER, "flow_cancel", flow_id=flow_id, **args)


def moves(progress: dict[str, Any]) -> tuple[bool, int]:
    """Return whether members are still to be stopped, and how many stopped ones still run."""
    return progress["more"], progress["left"]


async def members(machine: StateMachine, flow_id: str, *, left: bool = False) -> list[str]:
    page = await machine(RECONCILER, "flow_cancel_members", flow_id=flow_id, offset=0, limit=500, left=left)
    return list(page["ids"])


async def backlog(machine: StateMachine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    place: dict[str, Any] | None = {"kind": "f"}
    while place is not None:
        page = await machine(RECONCILER, "backlog", limit=2, **place)
        found += page["items"]
        place = page.get("next")
    return found


async def test_the_size_of_the_backlog_counts_flows_that_have_members_to_stop(machine: StateMachine) -> None:
    wide, _ = await machine.flow([f"m{n}" for n in range(400)])
    alone, _ = await machine.flow(["m"])
    await cancel_flow(machine, wide)
    await cancel_flow(machine, alone, "flow_only")  # nobody has to stop
    machine.skew_ms += 500
    size = await machine(RECONCILER, "backlog_size", sample=10)
    assert (size["executions"], size["flows"]) == (0, 1)
    assert 500 <= size["now"] - size["oldest_at"] < 30_000
    while (await machine(RECONCILER, "flow_cancel_step", flow_id=wide))["more"]:
        pass
    size = await machine(RECONCILER, "backlog_size", sample=10)
    assert (size["flows"], size.get("oldest_at")) == (0, None)


class TestExecution:
    async def test_what_nobody_holds_is_canceled_at_once(self, machine: StateMachine) -> None:
        for spec in ({}, {"run_at": 4_000_000_000_000}):
            execution_id = await machine.create(**spec)
            assert await cancel(machine, execution_id) == "canceled"
            record = await machine.get(execution_id)
            assert (record["state"], record["outcome"]) == ("canceled", "canceled")
        assert await machine.grant() == []

    async def test_a_granted_one_cannot_be_claimed_any_more(self, machine: StateMachine) -> None:
        execution_id = await machine.create()
        [grant] = await machine.grant()
        await cancel(machine, execution_id)
        error = await machine.refused(
            "lease-keeper",
            "claim",
            grant_id=grant[0],
            execution_id=execution_id,
            worker_id="w",
            verb="claim",
        )
        assert error.code == "execution_not_leaseable"

    async def test_one_in_backoff_is_canceled_at_once(self, machine: StateMachine) -> None:
        execution_id = await machine.create(max_attempts=2)
        [task] = await machine.take()
        await machine.outcome("fail", task, reason="r", category="c")
        assert (await machine.get(execution_id))["state"] == "retry_wait"
        assert await cancel(machine, execution_id) == "canceled"

    @pytest.mark.parametrize("start", [False, True])
    async def test_a_held_one_is_asked_then_its_outcome_is_canceled(
        self, machine: StateMachine, start: bool
    ) -> None:
        execution_id = await machine.create()
        [task] = await machine.take(start=start)
        assert await cancel(machine, execution_id) == ("running" if start else "leased")
        assert machine.told("cancel") == [["w", execution_id, task["lease_id"]]]
        assert (await machine.get(execution_id))["cancel_requested"] is True
        assert (await machine.outcome("renew", task))["cancel_requested"] is True
        if start:
            assert (await machine.outcome("complete", task, result="1"))["state"] == "canceled"
        else:
            assert (await machine.outcome("release", task))["state"] == "canceled"
        assert await backlog(machine) == []
        assert await cancel(machine, execution_id) == "canceled"

    async def test_past_its_grace_the_lease_is_revoked(self, machine: StateMachine) -> None:
        execution_id = await machine.create()
        [task] = await machine.take()
        await cancel(machine, execution_id, grace_ms=10_000)
        machine.skew_ms += 9_990
        await machine.due(RECONCILER)
        assert (await machine.get(execution_id))["state"] == "running"
        machine.skew_ms += 20
        await machine.due(RECONCILER)
        assert (await machine.get(execution_id))["state"] == "canceled"
        error = await machine.refused(
            "lease-keeper",
            "complete",
            **{k: task[k] for k in ("execution_id", "attempt_index", "lease_id", "lease_epoch")},
        )
        assert error.code == "execution_not_active"
        assert await machine.names("execution", execution_id) == [
            "created",
            "started",
            "cancel_requested",
            "canceled",
        ]
        assert await backlog(machine) == []

    async def test_the_worker_is_asked_again_and_the_backlog_tells(self, machine: StateMachine) -> None:
        execution_id = await machine.create()
        await machine.take()
        await cancel(machine, execution_id, grace_ms=60_000)
        [item] = await backlog(machine)
        assert item["execution_id"] == execution_id
        assert item["tries"] == 1 and "last_error" not in item
        machine.skew_ms += 1_001
        await machine.due(RECONCILER)
        [again] = await backlog(machine)
        assert again["tries"] == 2 and "w has not stopped" in again["last_error"]
        size = await machine(RECONCILER, "backlog_size", sample=10)
        assert (size["executions"], size["flows"]) == (1, 0)
        assert 1_001 <= size["now"] - size["oldest_at"] < 30_000  # since it was asked first
        assert again["next_at"] - item["next_at"] >= 2_000
        assert len(machine.told("cancel")) == 2

    async def test_no_grace_revokes_at_once(self, machine: StateMachine) -> None:
        execution_id = await machine.create()
        [task] = await machine.take()
        assert await cancel(machine, execution_id, grace_ms=0) == "canceled"
        assert machine.told("cancel") == [["w", execution_id, task["lease_id"]]]

    async def test_a_repeat_tells_no_second_event_and_may_shorten_the_grace(
        self, machine: StateMachine
    ) -> None:
        execution_id = await machine.create()
        await machine.take()
        await cancel(machine, execution_id, grace_ms=60_000)
        assert await cancel(machine, execution_id, grace_ms=5_000) == "running"
        assert await cancel(machine, execution_id, grace_ms=90_000) == "running"
        assert (await machine.names("execution", execution_id)).count("cancel_requested") == 1
        machine.skew_ms += 5_001
        await machine.due(RECONCILER)
        assert (await machine.get(execution_id))["state"] == "canceled"

    async def test_a_lease_that_runs_out_in_the_grace_cancels(self, machine: StateMachine) -> None:
        execution_id = await machine.create()
        await machine.take(ttl_ms=1_000)
        await cancel(machine, execution_id, grace_ms=60_000)
        machine.skew_ms += 1_001
        await machine.due("lease-keeper")
        assert (await machine.get(execution_id))["state"] == "canceled"

    async def test_an_attempt_that_times_out_in_the_grace_is_not_tried_again(
        self, machine: StateMachine
    ) -> None:
        execution_id = await machine.create(max_attempts=5, attempt_timeout_ms=1_000)
        await machine.take()
        await cancel(machine, execution_id, grace_ms=60_000)
        machine.skew_ms += 1_001
        await machine.due("lease-keeper")
        assert (await machine.get(execution_id))["state"] == "canceled"

    async def test_what_has_ended_otherwise_is_refused(self, machine: StateMachine) -> None:
        execution_id = await machine.create()
        [task] = await machine.take()
        await machine.outcome("complete", task)
        error = await machine.refused(RECONCILER, "cancel", execution_id=execution_id, reason="", grace_ms=0)
        assert error.code == "already_terminal" and error.detail["state"] == "completed"

    async def test_an_unknown_one(self, machine: StateMachine) -> None:
        error = await machine.refused(RECONCILER, "cancel", execution_id=NOWHERE, reason="", grace_ms=0)
        assert error.code == "execution_not_found"


async def test_a_child_of_the_same_call_ends_with_its_parent(machine: StateMachine) -> None:
    """The parent ends in the very call that makes its child, before the child stands in any index."""
    parent = await machine.create()
    [task] = await machine.take()
    await cancel(machine, parent)
    child = new_id(0)
    fence = {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}
    made, ended = await machine.stores["scheduler"].call_many(
        [
            (0, "create", {"id": child, "spec": {"kind": "t", "parent_id": parent}}),
            (0, "give_back", fence),
        ]
    )
    assert (made["state"], ended["state"]) == ("ready", "canceled")
    await machine.due("cancel-reconciler")
    assert (await machine.get(child))["state"] == "canceled"


class TestRequestCancel:
    async def test_the_intent_is_sticky_and_told_once(self, machine: StateMachine) -> None:
        flow_id, _ = await machine.flow(["a"])
        before = await machine.flow_get(flow_id)
        after = await machine(RECONCILER, "flow_request_cancel", flow_id=flow_id)
        assert after["cancel_requested"] is True
        assert (after["status"], after["revision"]) == ("running", before["revision"] + 1)
        again = await machine(RECONCILER, "flow_request_cancel", flow_id=flow_id)
        assert again["revision"] == after["revision"]
        assert (await machine.names("flow", flow_id)).count("cancel_requested") == 1

    async def test_other_moves_are_refused(self, machine: StateMachine) -> None:
        flow_id, _ = await machine.flow(["a"], start=False)
        await machine(RECONCILER, "flow_request_cancel", flow_id=flow_id)
        assert (await machine.refused("scheduler", "flow_start", flow_id=flow_id)).code == "cancel_pending"

    async def test_when_its_members_end_the_flow_is_cancelled(self, machine: StateMachine) -> None:
        flow_id, _ = await machine.flow(["a"])
        [task] = await machine.take()
        await machine(RECONCILER, "flow_request_cancel", flow_id=flow_id)
        await machine.outcome("complete", task)
        assert (await machine.flow_get(flow_id))["status"] == "cancelled"

    async def test_a_failing_member_cancels_it_too(self, machine: StateMachine) -> None:
        flow_id, ids = await machine.flow(["a", "b", "c"], [("a", "b")])
        task = next(task for task in await machine.take(2) if task["execution_id"] == ids["a"])
        await machine(RECONCILER, "flow_request_cancel", flow_id=flow_id)
        await machine.outcome("fail", task, reason="r")
        assert (await machine.flow_get(flow_id))["status"] == "cancelled"

    async def test_expected_revision_and_terminal_flows(self, machine: StateMachine) -> None:
        flow_id, _ = await machine.flow(["a"])
        error = await machine.refused(
            RECONCILER, "flow_request_cancel", flow_id=flow_id, expected_revision=77
        )
        assert error.code == "revision_mismatch" and error.detail["expected"] == 77
        await cancel_flow(machine, flow_id)
        error = await machine.refused(RECONCILER, "flow_request_cancel", flow_id=flow_id)
        assert error.code == "already_terminal"
        error = await machine.refused(RECONCILER, "flow_request_cancel", flow_id=NOWHERE)
        assert error.code == "flow_not_found"


class TestFlowCancel:
    async def test_cancel_all_stops_every_member(self, machine: StateMachine) -> None:
        flow_id, ids = await machine.flow(["done", "held", "ready", "later"], [("ready", "later")])
        tasks = {task["execution_id"]: task for task in await machine.take(2)}
        assert set(tasks) == {ids["done"], ids["held"]}
        await machine.outcome("complete", tasks[ids["done"]])
        assert moves(await cancel_flow(machine, flow_id)) == (False, 1)
        assert (await machine.flow_get(flow_id))["status"] == "cancelled"
        assert await members(machine, flow_id) == [ids["held"], ids["ready"], ids["later"]]
        assert await members(machine, flow_id, left=True) == [ids["held"]]
        assert [item["execution_id"] for item in await backlog(machine)] == [ids["held"]]
        machine.hints.clear()
        assert (await machine.outcome("complete", tasks[ids["held"]]))["state"] == "canceled"
        assert machine.told("flow_done") == [flow_id]
        flow = await machine.flow_get(flow_id)
        assert flow["counts"] == {"completed": 1, "canceled": 3}
        assert await members(machine, flow_id, left=True) == []

    async def test_past_the_grace_held_members_are_revoked(self, machine: StateMachine) -> None:
        flow_id, ids = await machine.flow(["a", "b"])
        await machine.take(2, ttl_ms=60_000)
        assert (await cancel_flow(machine, flow_id))["left"] == 2
        machine.skew_ms += 10_001
        machine.hints.clear()
        await machine.due(RECONCILER)
        assert {(await machine.get(each))["state"] for each in ids.values()} == {"canceled"}
        assert machine.told("flow_done") == [flow_id]

    async def test_cancel_pending_lets_held_members_end(self, machine: StateMachine) -> None:
        flow_id, ids = await machine.flow(["held", "ready"])
        [task] = await machine.take()
        assert moves(await cancel_flow(machine, flow_id, "cancel_pending")) == (False, 0)
        assert await members(machine, flow_id) == [ids["ready"]]
        assert (await machine.get(ids["ready"]))["state"] == "canceled"
        assert (await machine.outcome("complete", task))["state"] == "completed"
        assert (await machine.flow_get(flow_id))["status"] == "cancelled"

    async def test_flow_only_touches_no_member_but_none_can_be_claimed(self, machine: StateMachine) -> None:
        flow_id, ids = await machine.flow(["a", "b"])
        [grant] = await machine.grant()
        assert moves(await cancel_flow(machine, flow_id, "flow_only")) == (False, 0)
        assert await members(machine, flow_id) == []
        error = await machine.refused(
            "lease-keeper", "claim", grant_id=grant[0], execution_id=grant[1], worker_id="w", verb="claim"
        )
        assert error.code == "execution_not_leaseable" and error.detail["flow_status"] == "cancelled"
        assert await machine.grant(5) == []
        assert (await machine.get(ids["b"]))["state"] == "canceled"

    async def test_a_retry_is_answered_as_the_first(self, machine: StateMachine) -> None:
        flow_id, ids = await machine.flow(["a", "b"])
        await cancel_flow(machine, flow_id)
        revision = (await machine.flow_get(flow_id))["revision"]
        again = await cancel_flow(machine, flow_id, "flow_only", expected_revision=1)
        assert (again["again"], again["status"], again["policy"]) == (True, "cancelled", "cancel_all")
        assert await members(machine, flow_id) == list(ids.values())
        assert (await machine.flow_get(flow_id))["revision"] == revision

    async def test_a_finished_flow_stays_finished(self, machine: StateMachine) -> None:
        flow_id, _ = await machine.flow(["a"])
        [task] = await machine.take()
        await machine.outcome("complete", task)
        again = await cancel_flow(machine, flow_id)
        assert (again["again"], again["status"]) == (True, "finished")
        assert await members(machine, flow_id) == []

    async def test_expected_revision_and_unknown_flows(self, machine: StateMachine) -> None:
        flow_id, _ = await machine.flow(["a"])
        error = await machine.refused(
            RECONCILER, "flow_cancel", flow_id=flow_id, policy="cancel_all", grace_ms=0, expected_revision=9
        )
        assert error.code == "revision_mismatch"
        assert (await machine.flow_get(flow_id))["status"] == "running"
        error = await machine.refused(RECONCILER, "flow_cancel", flow_id=NOWHERE, policy="flow_only")
        assert error.code == "flow_not_found"

    async def test_a_wide_flow_is_walked_in_slices_also_when_its_handler_died(
        self, machine: StateMachine
    ) -> None:
        flow_id, ids = await machine.flow([f"m{n}" for n in range(420)])
        begun = await cancel_flow(machine, flow_id)
        assert (begun["listed"], begun["more"]) == (False, True)
        [item] = await backlog(machine)
        assert (item["flow_id"], item["members"]) == (flow_id, 420)
        await machine.due(RECONCILER)
        assert (await machine(RECONCILER, "flow_cancel_progress", flow_id=flow_id))["more"]
        machine.skew_ms += 1_001
        await machine.due(RECONCILER)
        assert moves(await machine(RECONCILER, "flow_cancel_progress", flow_id=flow_id)) == (False, 0)
        assert await members(machine, flow_id) == list(ids.values())
        assert (await machine.flow_get(flow_id))["counts"] == {"canceled": 420}
        assert await backlog(machine) == []

    async def test_a_member_that_is_not_reached_yet_is_canceled_by_its_outcome(
        self, machine: StateMachine
    ) -> None:
        """The flow's status counts from the first step on, also for members that are stopped only later."""
        flow_id, _ = await machine.flow([f"m{n}" for n in range(420)])
        tasks = await machine.take(4)
        begun = await cancel_flow(machine, flow_id)
        assert not begun["listed"]
        assert (await machine.outcome("complete", tasks[0]))["state"] == "canceled"
        await machine.outcome("fail", tasks[1], reason="r")
        breach = {"budget_id": NOWHERE, "breach": "fail", "tell_worker": False}
        stopped = {name: tasks[2][name] for name in ("execution_id", "lease_id")}
        await machine("lease-keeper", "budget_breach", **stopped, **breach)
        machine.skew_ms += 30_001
        await machine.due("lease-keeper")
        assert {(await machine.get(task["execution_id"]))["state"] for task in tasks} == {"canceled"}
        assert await machine.grant(5) == []

    async def test_a_member_that_does_not_exist_is_dropped_with_an_event(self, machine: StateMachine) -> None:
        flow_id, ids = await machine.flow(["a", "b"])
        await machine.stores[RECONCILER].execute("DEL", f"{machine.root}:{{0}}:x:{ids['a']}")
        assert moves(await cancel_flow(machine, flow_id)) == (False, 0)
        assert await members(machine, flow_id) == [ids["b"]]
        [event] = [e for e in await machine.events("flow", flow_id) if e[1] == "cancel_dropped"]
        assert event[6] == "execution_not_found" and event[7] == {"execution_id": ids["a"]}
