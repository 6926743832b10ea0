"""Flows that wait: for a time, for an external event, or for a resume by hand."""

import asyncio
from typing import Any

import msgspec
import pytest

from flows_by_verb import get, make_flow
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

HOUR_MS = 3_600_000
BUILD = {"kind": "external_event", "topic": "ci.build", "correlation_id": "42"}


async def waiting(
    penstock: RunningPenstock, wait: dict[str, Any], edges: str = "", **more: Any
) -> dict[str, Any]:
    flow = await make_flow(penstock, "a b", edges, **more)
    return await penstock.request("flow.set_waiting", {"flow_id": flow["flow_id"], "wait": wait})


async def now(penstock: RunningPenstock) -> int:
    return await penstock.clock.now()


async def publish(
    penstock: RunningPenstock,
    body: Any = None,
    topic: str = "ci.build",
    correlation_id: str = "42",
    **headers: str,
) -> None:
    headers = {
        "Penstock-Correlation-Id": correlation_id,
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    await penstock.js.publish(f"{penstock.root}.event.{topic}", msgspec.json.encode(body), headers=headers)


async def goes_on(penstock: RunningPenstock, flow: dict[str, Any]) -> dict[str, Any]:
    return await penstock.until(lambda: get(penstock, flow), lambda found: found["status"] == "running")


class TestTimer:
    async def test_it_goes_on_at_its_time(self, penstock: RunningPenstock) -> None:
        at = await now(penstock) + HOUR_MS
        flow = await waiting(penstock, {"kind": "timer", "at": at})
        assert (flow["status"], flow["wait"]) == ("waiting", {"kind": "timer", "at": at})
        penstock.move_clock(HOUR_MS - 5000)
        assert (await get(penstock, flow))["status"] == "waiting"
        penstock.move_clock(5000)
        found = await goes_on(penstock, flow)
        assert found["wait"] is None and found["updated_at"] - at < 1000

    async def test_a_time_that_has_passed_resumes_at_once(self, penstock: RunningPenstock) -> None:
        flow = await waiting(penstock, {"kind": "timer", "at": 1})
        assert (flow["status"], flow["wait"]) == ("running", None)


class TestManual:
    async def test_somebody_says_go(self, penstock: RunningPenstock) -> None:
        flow = await waiting(penstock, {"kind": "manual"}, state={"a": 1, "b": {"c": 1}})
        patch = {"flow_id": flow["flow_id"], "state_patch": {"b": 2}, "next_step": "on"}
        found = await penstock.request("flow.resume", patch)
        assert (found["status"], found["state"], found["current_step"]) == ("running", {"a": 1, "b": 2}, "on")
        assert (
            await penstock.refused("flow.resume", {"flow_id": flow["flow_id"]})
        ).code == "illegal_transition"

    async def test_revisions(self, penstock: RunningPenstock) -> None:
        flow = await waiting(penstock, {"kind": "manual"})
        late = {"flow_id": flow["flow_id"], "expected_revision": flow["revision"] - 1}
        assert (await penstock.refused("flow.resume", late)).code == "revision_mismatch"
        late |= {"state_patch": {"a": 1}}
        assert (await penstock.refused("flow.resume", late)).code == "revision_mismatch"
        found = await penstock.request("flow.resume", late | {"expected_revision": flow["revision"]})
        assert found["revision"] == flow["revision"] + 1

    async def test_the_moves(self, penstock: RunningPenstock) -> None:
        manual = {"kind": "manual"}
        created = await make_flow(penstock, "a", start=False)
        error = await penstock.refused("flow.set_waiting", {"flow_id": created["flow_id"], "wait": manual})
        assert error.code == "illegal_transition"
        flow = await waiting(penstock, manual)
        at = {"flow_id": flow["flow_id"]}
        assert (
            await penstock.refused("flow.set_waiting", at | {"wait": manual})
        ).code == "illegal_transition"
        assert (await penstock.refused("flow.finish", at)).code == "illegal_transition"
        assert (await penstock.request("flow.fail", at | {"reason": "r"}))["status"] == "failed"
        assert (await penstock.refused("flow.resume", at)).code == "already_terminal"
        for verb, more in (("flow.set_waiting", {"wait": manual}), ("flow.resume", {})):
            assert (await penstock.refused(verb, {"flow_id": NOWHERE, **more})).code == "flow_not_found"

    @pytest.mark.parametrize(
        "wait",
        [
            {},
            {"kind": "timer"},
            {"kind": "other"},
            {"kind": "external_event", "topic": "a.*", "correlation_id": "1"},
            {"kind": "external_event", "topic": "a"},
            {"kind": "external_event", "topic": "a", "correlation_id": ""},
        ],
    )
    async def test_a_bad_wait(self, penstock: RunningPenstock, wait: dict[str, Any]) -> None:
        flow = await make_flow(penstock, "a")
        error = await penstock.refused("flow.set_waiting", {"flow_id": flow["flow_id"], "wait": wait})
        assert error.code == "invalid_request"
        assert (await get(penstock, flow))["status"] == "running"


class TestMembers:
    async def test_none_begins_while_the_flow_waits(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b c d", "a>b b>c")
        runs = await penstock.begin()
        at = {"flow_id": flow["flow_id"]}
        await penstock.request("flow.set_waiting", at | {"wait": {"kind": "manual"}})
        await penstock.request("lease.complete", fence(runs))
        nothing = await penstock.request("work.next", {"worker_id": "w1", "wait_ms": 0, "max": 10})
        assert nothing["tasks"] == []
        other = await penstock.refused("work.grant", {"worker_id": "w1"})
        assert other.code == "no_eligible_execution"
        waits = await penstock.request("execution.explain", {"execution_id": flow["members"]["d"]})
        assert waits["waiting_for"]["kind"] == "flow"
        await penstock.request("flow.resume", at)
        begun = {(await penstock.begin())["execution_id"] for _ in range(2)}
        keys = {"b", "d"} if runs["execution_id"] == flow["members"]["a"] else {"a"}
        assert {flow["members"][key] for key in keys} <= begun

    async def test_a_flow_whose_members_have_ended_meanwhile_finishes(
        self, penstock: RunningPenstock
    ) -> None:
        flow = await make_flow(penstock, "a")
        task = await penstock.begin()
        at = {"flow_id": flow["flow_id"]}
        await penstock.request("flow.set_waiting", at | {"wait": {"kind": "manual"}})
        await penstock.request("lease.complete", fence(task))
        assert (await get(penstock, flow))["status"] == "waiting"
        await penstock.request("flow.resume", at)
        assert (await get(penstock, flow))["status"] == "finished"


class TestEvents:
    async def test_an_event_wakes_who_waits(self, penstock: RunningPenstock) -> None:
        flows = [await waiting(penstock, BUILD, state={"n": n}) for n in range(3)]
        other = await waiting(penstock, BUILD | {"correlation_id": "43"})
        await publish(penstock, {"ok": True, "big": 2**60 + 1})
        for n, flow in enumerate(flows):
            found = await goes_on(penstock, flow)
            assert found["state"] == {"n": n, "event": {"ok": True, "big": 2**60 + 1}}
        assert (await get(penstock, other))["status"] == "waiting"

    async def test_one_that_came_first_counts_for_a_while(self, penstock: RunningPenstock) -> None:
        await publish(penstock, "early", Nats_Msg_Id="m1")
        flow = await make_flow(penstock, "a")
        wait = {"flow_id": flow["flow_id"], "wait": BUILD}

        async def begin() -> dict[str, Any]:
            # The event may not have arrived yet: then end the wait by hand, so that the next try can wait again.
            found = await penstock.request("flow.set_waiting", wait)
            if found["status"] == "waiting":
                await penstock.request("flow.resume", {"flow_id": flow["flow_id"]})
            return found

        woken = await penstock.until(begin, lambda found: found["status"] == "running")
        assert woken["state"] == {}  # the payload is no object, so only the audit trail has it
        # One event wakes the same flow only once.
        assert (await penstock.request("flow.set_waiting", wait))["status"] == "waiting"
        late = await make_flow(penstock, "a")
        penstock.move_clock(HOUR_MS + 1000)
        found = await penstock.request("flow.set_waiting", {"flow_id": late["flow_id"], "wait": BUILD})
        assert found["status"] == "waiting"

    async def test_a_wait_that_lasts_too_long(self, penstock: RunningPenstock) -> None:
        flow = await waiting(penstock, BUILD | {"timeout_at": await now(penstock) + HOUR_MS})
        penstock.move_clock(HOUR_MS + 1000)
        await goes_on(penstock, flow)

    async def test_it_comes_also_when_no_router_was_there(self, penstock: RunningPenstock) -> None:
        flow = await waiting(penstock, BUILD)
        await penstock.services["signal-router"].stop()
        await publish(penstock, {"a": 1})
        await penstock.start_service("signal-router")
        assert (await goes_on(penstock, flow))["state"]["event"] == {"a": 1}

    async def test_cancellation_wins(self, penstock: RunningPenstock) -> None:
        flow = await waiting(penstock, BUILD | {"timeout_at": await now(penstock) + HOUR_MS})
        at = {"flow_id": flow["flow_id"]}
        await penstock.request("flow.request_cancel", at)
        assert (await penstock.refused("flow.resume", at)).code == "cancel_pending"
        await publish(penstock)
        other = await waiting(penstock, BUILD)
        await goes_on(penstock, other)
        penstock.move_clock(2 * HOUR_MS)
        assert (await get(penstock, flow))["status"] == "waiting"
        assert (await penstock.request("flow.cancel", at))["status"] == "cancelled"

    async def test_what_is_no_event_is_a_dead_letter(self, penstock: RunningPenstock) -> None:
        dead = await penstock.js.subscribe(f"{penstock.root}.dead.event.>", ordered_consumer=True)
        await penstock.js.publish(f"{penstock.root}.event.a", b"{}")
        await penstock.js.publish(f"{penstock.root}.event.b", b"{", headers={"Penstock-Correlation-Id": "1"})
        reasons = [(await dead.next_msg(timeout=WAIT_S)).headers["Penstock-Dead-Reason"] for _ in range(2)]
        assert "Correlation-Id" in reasons[0] and "JSON" in reasons[1]

    async def test_both_orders_of_event_and_wait_wake_once(self, penstock: RunningPenstock) -> None:
        flows = [await make_flow(penstock, "a") for _ in range(20)]

        async def wait_for(n: int, flow: dict[str, Any]) -> None:
            wait = BUILD | {"correlation_id": f"c{n}"}
            await penstock.request("flow.set_waiting", {"flow_id": flow["flow_id"], "wait": wait})

        await asyncio.gather(
            *(wait_for(n, flow) for n, flow in enumerate(flows)),
            *(publish(penstock, {"n": n}, correlation_id=f"c{n}") for n in range(20)),
        )
        for n, flow in enumerate(flows):
            found = await goes_on(penstock, flow)
            assert found["state"]["event"] == {"n": n}
