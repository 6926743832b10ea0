"""The cancel-reconciler, tested over NATS only."""

import asyncio
from typing import Any

import msgspec
import pytest

from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence
from servers import nats_server


async def make_flow(
    penstock: RunningPenstock, keys: list[str], edges: list[tuple[str, str]] | None = None
) -> Any:
    flow = await penstock.request(
        "flow.create",
        {
            "controller_id": "c",
            "goal": "g",
            "owner": "o",
            "members": [{"key": key, "kind": "test.job"} for key in keys],
            "edges": [{"from": one, "to": other} for one, other in edges or []],
        },
    )
    await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
    return flow


async def flow_status(penstock: RunningPenstock, flow_id: str) -> str:
    return (await penstock.request("flow.get", {"flow_id": flow_id}))["status"]


class TestExecutionCancel:
    async def test_what_nobody_holds_is_canceled_at_once(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        reply = await penstock.request("execution.cancel", {"execution_id": execution_id, "reason": "no"})
        assert reply == {"state": "canceled"}
        record = await penstock.get(execution_id)
        assert (record["state"], record["outcome"]) == ("canceled", "canceled")
        assert await penstock.request("execution.cancel", {"execution_id": execution_id}) == reply

    async def test_one_that_waits_for_it_hears_of_it(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        waiting = asyncio.create_task(
            penstock.request("execution.wait", {"execution_id": execution_id, "wait_ms": 20_000})
        )
        await penstock.request("execution.cancel", {"execution_id": execution_id})
        assert (await waiting)["state"] == "canceled"

    async def test_its_worker_is_told_and_its_outcome_is_canceled(self, penstock: RunningPenstock) -> None:
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        execution_id = await penstock.create()
        task = await penstock.begin()
        reply = await penstock.request("execution.cancel", {"execution_id": execution_id, "reason": "no"})
        assert reply == {"state": "running"}
        message = msgspec.json.decode((await pushed.next_msg(timeout=WAIT_S)).data)
        assert message["execution_id"] == execution_id and message["lease_id"] == task["lease_id"]
        assert (await penstock.get(execution_id))["cancel_requested"] is True
        assert (await penstock.request("lease.renew", fence(task)))["cancel_requested"] is True
        assert await penstock.request("lease.complete", fence(task)) == {"state": "canceled"}

    async def test_past_its_grace_the_lease_is_revoked(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        await penstock.request("execution.cancel", {"execution_id": execution_id, "grace_ms": 100})
        await penstock.reaches(execution_id, "canceled")
        error = await penstock.refused("lease.complete", fence(task))
        assert error.code == "execution_not_active" and error.detail["terminal_outcome"] == "canceled"

    async def test_a_batch_is_answered_one_by_one(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        answers = await penstock.request(
            "execution.cancel",
            [{"execution_id": execution_id}, {"execution_id": NOWHERE}, {"execution_id": "x"}],
        )
        assert answers[0] == {"ok": {"state": "canceled"}}
        codes = [answer["error"]["code"] for answer in answers[1:]]
        assert codes == ["execution_not_found", "invalid_request"]

    async def test_what_has_ended_otherwise_is_refused(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        await penstock.request("lease.complete", fence(await penstock.begin()))
        error = await penstock.refused("execution.cancel", {"execution_id": execution_id})
        assert error.code == "already_terminal"
        assert (await penstock.get(execution_id))["state"] == "completed"

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [({"grace_ms": -1}, "grace_ms"), ({"reason": 3}, "reason"), ({"force": True}, "force")],
    )
    async def test_wrong_requests_name_the_field(
        self, penstock: RunningPenstock, wrong: dict[str, Any], field: str
    ) -> None:
        execution_id = await penstock.create()
        error = await penstock.refused("execution.cancel", {"execution_id": execution_id, **wrong})
        assert error.code == "invalid_request" and error.detail["field"] == field
        assert (await penstock.get(execution_id))["state"] == "ready"


class TestRequestCancel:
    async def test_the_intent_is_sticky(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a"])
        body = {"flow_id": flow["flow_id"]}
        first = await penstock.request("flow.request_cancel", body)
        assert first["cancel_requested"] is True and first["status"] == "running"
        second = await penstock.request("flow.request_cancel", body)
        assert second["revision"] == first["revision"]
        execution_id = flow["members"]["a"]
        await penstock.request("lease.complete", fence(await penstock.begin()))
        await penstock.reaches(execution_id, "completed")
        assert await flow_status(penstock, flow["flow_id"]) == "cancelled"
        assert (await penstock.refused("flow.request_cancel", body)).code == "already_terminal"

    async def test_errors(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a"])
        body = {"flow_id": flow["flow_id"], "expected_revision": 99}
        error = await penstock.refused("flow.request_cancel", body)
        assert error.code == "revision_mismatch" and error.detail == {"expected": 99, "actual": 2}
        error = await penstock.refused("flow.request_cancel", {"flow_id": NOWHERE})
        assert error.code == "flow_not_found"


class TestFlowCancel:
    async def test_in_the_background(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a", "b", "c"], [("a", "b")])
        ids = sorted(flow["members"].values())  # in the order of their creation
        body = {"flow_id": flow["flow_id"], "policy": "cancel_all", "reason": "enough"}
        first = await penstock.request("flow.cancel", body)
        assert first["result"] == "cancellation_scheduled"
        assert first["cancellation_policy"] == "cancel_all"
        assert (first["member_count"], first["member_execution_ids"]) == (3, ids)
        for execution_id in ids:
            await penstock.reaches(execution_id, "canceled")
        again = await penstock.request("flow.cancel", body)
        assert (again["result"], again["member_execution_ids"]) == ("cancelled", ids)
        assert await flow_status(penstock, flow["flow_id"]) == "cancelled"

    async def test_nothing_to_cancel(self, penstock: RunningPenstock) -> None:
        for keys, policy in (([], "cancel_all"), (["a"], "flow_only")):
            flow = await penstock.request(
                "flow.create",
                {
                    "controller_id": "c",
                    "goal": "g",
                    "owner": "o",
                    "members": [{"key": key, "kind": "k"} for key in keys],
                },
            )
            reply = await penstock.request("flow.cancel", {"flow_id": flow["flow_id"], "policy": policy})
            assert reply["result"] == "cancelled" and reply["cancellation_policy"] == policy
            assert reply["member_execution_ids"] == []

    async def test_waiting_until_a_worker_has_stopped(self, penstock: RunningPenstock) -> None:
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        flow = await make_flow(penstock, ["held", "ready"])
        task = await penstock.begin()
        body = {"flow_id": flow["flow_id"], "wait": True, "grace_ms": 60_000}
        waiting = asyncio.create_task(penstock.request("flow.cancel", body))
        await pushed.next_msg(timeout=WAIT_S)
        assert not waiting.done()
        backlog = await penstock.request("cancel.backlog", {})
        assert [item["execution_id"] for item in backlog["items"]] == [task["execution_id"]]
        assert backlog["items"][0]["flow_id"] == flow["flow_id"]
        await penstock.request("lease.fail", {**fence(task), "reason": "stopped"})
        reply = await waiting
        assert reply["result"] == "cancelled"
        assert set(reply["member_execution_ids"]) == set(flow["members"].values())
        assert (await penstock.request("cancel.backlog", {}))["items"] == []

    async def test_what_does_not_stop_in_time_stays_in_the_backlog(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["held", "ready"])
        task = await penstock.begin()
        body = {"flow_id": flow["flow_id"], "wait": True, "wait_ms": 50, "grace_ms": 60_000}
        reply = await penstock.request("flow.cancel", body)
        assert reply["result"] == "partially_cancelled"
        assert set(reply["member_execution_ids"]) == set(flow["members"].values())
        assert reply["failed_member_execution_ids"] == [task["execution_id"]]
        penstock.move_clock(60_001)
        await penstock.reaches(task["execution_id"], "canceled")
        assert (await penstock.request("cancel.backlog", {}))["items"] == []

    async def test_the_grace_ends_the_wait(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a", "b"])
        await penstock.take(2, start=True)
        body = {"flow_id": flow["flow_id"], "wait": True, "grace_ms": 200}
        reply = await penstock.request("flow.cancel", body)
        assert reply["result"] == "cancelled"
        assert await flow_status(penstock, flow["flow_id"]) == "cancelled"

    async def test_the_backlog_outlives_the_service(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a"])
        task = await penstock.begin()
        body = {"flow_id": flow["flow_id"], "wait": True, "wait_ms": 60_000, "grace_ms": 60_000}
        waiting = asyncio.create_task(penstock.request("flow.cancel", body))
        await penstock.until(
            lambda: penstock.get(task["execution_id"]), lambda record: record["cancel_requested"]
        )
        await penstock.running["cancel-reconciler"].stop()
        reply = await waiting
        assert reply["failed_member_execution_ids"] == [task["execution_id"]]
        penstock.move_clock(60_001)
        await penstock.start_again("cancel-reconciler")
        await penstock.reaches(task["execution_id"], "canceled")

    async def test_cancel_pending_lets_running_members_end(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a", "b"])
        task = await penstock.begin()
        body = {"flow_id": flow["flow_id"], "policy": "cancel_pending", "wait": True}
        reply = await penstock.request("flow.cancel", body)
        assert reply["result"] == "cancelled"
        assert len(reply["member_execution_ids"]) == 1
        assert await penstock.request("lease.complete", fence(task)) == {"state": "completed"}

    async def test_a_wide_flow(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, [f"m{n}" for n in range(1200)])
        ids = sorted(flow["members"].values())  # in the order of their creation
        body = {"flow_id": flow["flow_id"], "wait": True}
        reply = await penstock.request("flow.cancel", body)
        assert reply["result"] == "cancelled" and reply["member_execution_ids"] == ids
        assert "member_count" not in reply
        again = await penstock.request("flow.cancel", body)
        assert (again["member_execution_ids"], again["member_count"]) == (ids[:1000], 1200)
        found = await penstock.request("flow.get", {"flow_id": flow["flow_id"]})
        assert found["counts"] == {"canceled": 1200}

    async def test_a_repeat_waits_if_it_says_so(self, penstock: RunningPenstock) -> None:
        """Only a request that waits says whether the members have stopped."""
        flow = await make_flow(penstock, ["held", "ready"])
        task = await penstock.begin()
        body = {"flow_id": flow["flow_id"], "grace_ms": 60_000}
        assert (await penstock.request("flow.cancel", body))["result"] == "cancellation_scheduled"
        assert (await penstock.request("flow.cancel", body))["result"] == "cancelled"
        reply = await penstock.request("flow.cancel", body | {"wait": True, "wait_ms": 1})
        assert reply["result"] == "partially_cancelled"
        assert reply["failed_member_execution_ids"] == [task["execution_id"]]
        waiting = asyncio.create_task(penstock.request("flow.cancel", body | {"wait": True}))
        await penstock.request("lease.cancel", fence(task))
        reply = await waiting
        assert reply["result"] == "cancelled" and "failed_member_execution_ids" not in reply
        assert set(reply["member_execution_ids"]) == set(flow["members"].values())

    async def test_a_flow_that_has_ended_keeps_its_status(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a"])
        await penstock.request("lease.complete", fence(await penstock.begin()))
        for more in ({}, {"wait": True}):
            reply = await penstock.request("flow.cancel", {"flow_id": flow["flow_id"], **more})
            assert (reply["result"], reply["status"]) == ("cancelled", "finished")
            assert reply["member_execution_ids"] == []

    async def test_errors(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, ["a"])
        error = await penstock.refused("flow.cancel", {"flow_id": NOWHERE})
        assert error.code == "flow_not_found"
        error = await penstock.refused("flow.cancel", {"flow_id": flow["flow_id"], "expected_revision": 7})
        assert error.code == "revision_mismatch"
        for wrong in ({"policy": "all"}, {"wait": "yes"}, {"wait_ms": -1}, {"grace_ms": -1}, {"x": 1}):
            error = await penstock.refused("flow.cancel", {"flow_id": flow["flow_id"], **wrong})
            assert error.code == "invalid_request" and error.detail["field"] == next(iter(wrong))
        assert await flow_status(penstock, flow["flow_id"]) == "running"


async def test_more_members_than_one_message_carries(valkey_url: str) -> None:
    """Lists are cut to what NATS carries, and a count says how many there are; the cancellation itself is whole."""
    members = 1500
    with nats_server(extra="max_payload: 65536") as url:
        async with RunningPenstock.open(url, valkey_url, max_payload_bytes=16_384) as penstock:
            flow = await make_flow(penstock, [])
            for start in range(0, members, 500):
                body = {
                    "flow_id": flow["flow_id"],
                    "graph_revision": flow["graph_revision"],
                    "members": [{"key": f"m{n}", "kind": "test.job"} for n in range(start, start + 500)],
                }
                flow = await penstock.request("flow.add_execution", body)
            held = 0
            while held < members:
                held += len(await penstock.take(1000, start=True))
            body = {"flow_id": flow["flow_id"], "wait": True, "wait_ms": 1, "grace_ms": 60_000}
            for _ in range(2):
                reply = await penstock.request("flow.cancel", body)
                assert reply["result"] == "partially_cancelled" and reply["member_count"] == members
                for name in ("member_execution_ids", "failed_member_execution_ids"):
                    assert 700 < len(set(reply[name])) < 1000
            penstock.move_clock(60_001)
            reply = await penstock.request("flow.cancel", body | {"wait_ms": 20_000})
            assert (reply["result"], reply["member_count"]) == ("cancelled", members)


class TestBacklog:
    async def test_pages(self, penstock: RunningPenstock) -> None:
        ids = {await penstock.create() for _ in range(5)}
        await penstock.take(5, start=True)
        await penstock.request(
            "execution.cancel", [{"execution_id": each, "grace_ms": 60_000} for each in ids]
        )
        seen: list[str] = []
        cursor = None
        while True:
            body = {"limit": 2} if cursor is None else {"limit": 2, "cursor": cursor}
            page = await penstock.request("cancel.backlog", body)
            seen += [item["execution_id"] for item in page["items"]]
            cursor = page["cursor"]
            if cursor is None:
                break
        assert len(seen) == 5 and set(seen) == ids

    async def test_a_foreign_cursor_is_refused(self, penstock: RunningPenstock) -> None:
        for cursor in ("x", "[9]", '[0,"y"]', "null"):
            error = await penstock.refused("cancel.backlog", {"cursor": cursor})
            assert error.code == "invalid_request" and error.detail["field"] == "cursor"
