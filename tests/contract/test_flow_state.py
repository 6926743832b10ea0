"""flow.update_state, flow.finish and flow.fail: a controller updates or ends its flow."""

import asyncio
from typing import Any

import msgspec
import pytest

from flows_by_verb import change, get, make_flow, refused_change
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

GRAPH = {"flow.add_execution", "flow.add_dependency", "flow.set_join"}


MUTATIONS: list[tuple[str, dict[str, Any]]] = [
    ("flow.update_state", {"state_patch": {"a": 1}}),
    ("flow.update_state", {"next_step": "x"}),
    ("flow.finish", {}),
    ("flow.fail", {"reason": "r"}),
    ("flow.add_execution", {"members": [{"key": "z", "kind": "k"}]}),
    ("flow.add_dependency", {"from": "a", "to": "b"}),
    ("flow.set_join", {"key": "b", "policy": "any_of"}),
]


def _reason(verb: str) -> dict[str, str]:
    return {"reason": "r"} if verb == "flow.fail" else {}


class TestState:
    async def test_a_patch_is_merged_byte_for_byte(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, state={"n": 9007199254740993, "empty": [], "keep": {"b": 1, "a": 2}})
        body = b'{"flow_id":"%s","state_patch":{"more": 1.50,"n":18446744073709551615},"next_step":"second"}'
        reply = await penstock.ask("flow.update_state", body % flow["flow_id"].encode())
        assert b'"state":{"n":18446744073709551615,"empty":[],"keep":{"b":1,"a":2},"more":1.50}' in reply.data
        after = msgspec.json.decode(reply.data)
        assert (after["current_step"], after["revision"]) == ("second", flow["revision"] + 2)
        assert await get(penstock, flow) == after

    async def test_what_is_no_object_replaces(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, state={"a": 1})
        for patch, state in (([1], [1]), ({"b": 2}, {"b": 2}), (None, None), ({}, {})):
            body = {"flow_id": flow["flow_id"], "state_patch": patch}
            assert (await penstock.request("flow.update_state", body))["state"] == state

    async def test_without_a_patch_only_the_step_changes(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, state={"a": 1})
        body = {"flow_id": flow["flow_id"], "next_step": "b"}
        after = await penstock.request("flow.update_state", body)
        assert (after["state"], after["current_step"]) == ({"a": 1}, "b")

    async def test_many_at_once_lose_nothing_that_is_not_refused(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock)
        applied: set[str] = set()

        async def put(name: str) -> None:
            body = {"flow_id": flow["flow_id"], "state_patch": {name: 1}}
            reply = msgspec.json.decode(
                (await penstock.ask("flow.update_state", msgspec.json.encode(body))).data
            )
            if "error" not in reply:
                applied.add(name)
            else:
                assert reply["error"]["code"] == "revision_mismatch"

        before = (await get(penstock, flow))["revision"]
        await asyncio.gather(*(put(f"k{n}") for n in range(20)))
        after = await get(penstock, flow)
        assert set(after["state"]) == applied and applied
        assert after["revision"] == before + len(applied)

    async def test_no_flow_has_the_revision_zero(self, penstock: RunningPenstock) -> None:
        flow = await penstock.request("flow.create", {"controller_id": "c", "owner": "o", "goal": "g"})
        patch = {"flow_id": flow["flow_id"], "expected_revision": 0, "state_patch": {"a": 1}}
        assert (await penstock.refused("flow.update_state", patch)).code == "revision_mismatch"
        assert await get(penstock, flow) == flow | {"members": None}

    @pytest.mark.parametrize(
        ("verb", "more"),
        [
            ("flow.update_state", {"state_patch": {"a": 1}}),
            ("flow.update_state", {"next_step": "x"}),
            ("flow.finish", {}),
            ("flow.fail", {"reason": "r"}),
        ],
    )
    async def test_a_revision_that_moved(
        self, penstock: RunningPenstock, verb: str, more: dict[str, Any]
    ) -> None:
        flow = await make_flow(penstock)
        body = {"flow_id": flow["flow_id"], "expected_revision": flow["revision"], **more}
        error = await penstock.refused(verb, body)
        assert error.code == "revision_mismatch"
        assert error.detail == {"expected": flow["revision"], "actual": flow["revision"] + 1}
        assert await penstock.request(verb, {**body, "expected_revision": flow["revision"] + 1})

    async def test_a_state_that_grows_too_large(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, state={"a": "x" * 600_000})
        body = {"flow_id": flow["flow_id"], "state_patch": {"b": "x" * 600_000}}
        error = await penstock.refused("flow.update_state", body)
        assert error.code == "payload_too_large" and error.detail["field"] == "state"
        assert error.detail["size"] > error.detail["limit"] == 1_048_576
        assert (await get(penstock, flow))["revision"] == flow["revision"] + 1


class TestEnding:
    async def test_finish(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b", "a>b", state={"a": 1})
        task = await penstock.begin()
        after = await penstock.request("flow.finish", {"flow_id": flow["flow_id"], "state_patch": {"b": 2}})
        assert (after["status"], after["state"]) == ("finished", {"a": 1, "b": 2})
        assert after["finished_at"]
        # A member that has not begun is skipped; a running member may still end.
        record = await penstock.reaches(flow["members"]["b"], "canceled")
        assert record["outcome"] == "skipped"
        assert await penstock.request("lease.complete", fence(task)) == {"state": "completed"}
        error = await penstock.refused("flow.finish", {"flow_id": flow["flow_id"]})
        assert (error.code, error.detail["status"]) == ("already_terminal", "finished")

    async def test_fail_stamps_the_state(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, state={"a": 1})
        body = {"flow_id": flow["flow_id"], "reason": "no money", "state_patch": {"b": 2}}
        after = await penstock.request("flow.fail", body)
        assert after["status"] == "failed"
        failure = after["state"].pop("failure")
        assert after["state"] == {"a": 1, "b": 2} and failure["reason"] == "no money"
        assert after["created_at"] <= failure["at"] <= after["finished_at"]

    async def test_moves_that_the_table_does_not_know(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, start=False)
        for verb, to in (("flow.finish", "finished"), ("flow.fail", "failed")):
            error = await penstock.refused(verb, {"flow_id": flow["flow_id"], **_reason(verb)})
            assert (error.code, error.detail) == ("illegal_transition", {"from": "created", "to": to})

    async def test_a_mirrored_flow_is_ended_by_its_verb(self, penstock: RunningPenstock) -> None:
        body = {"controller_id": "c", "goal": "g", "owner": "o"}
        flow = await penstock.request("flow.create_mirrored", body)
        assert (await penstock.request("flow.finish", {"flow_id": flow["flow_id"]}))["status"] == "finished"
        other = await penstock.request("flow.create_mirrored", body)
        members = [{"key": "a", "kind": "k"}]
        error = await refused_change(penstock, "flow.add_execution", other, members=members)
        assert (error.code, error.detail["field"]) == ("invalid_request", "flow_id")

    async def test_once_cancellation_is_requested(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b", "a>b")
        await penstock.request("flow.request_cancel", {"flow_id": flow["flow_id"]})
        for verb, more in MUTATIONS:
            revision = {"graph_revision": 0} if verb in GRAPH else {}
            error = await penstock.refused(verb, {"flow_id": flow["flow_id"], **revision, **more})
            assert error.code == "cancel_pending", verb

    async def test_nobody_knows_the_flow(self, penstock: RunningPenstock) -> None:
        for verb, more in MUTATIONS:
            revision = {"graph_revision": 0} if verb in GRAPH else {}
            error = await penstock.refused(verb, {"flow_id": NOWHERE, **revision, **more})
            assert error.code == "flow_not_found", verb

    async def test_every_mutation_has_its_event(self, penstock: RunningPenstock) -> None:
        events: list[Any] = []
        heard = await penstock.nats.subscribe(f"{penstock.root}.audit.*.flow.>")
        flow = await make_flow(penstock, "a b")
        await penstock.request("flow.update_state", {"flow_id": flow["flow_id"], "next_step": "x"})
        await change(penstock, "flow.add_execution", flow, members=[{"key": "c", "kind": "k"}])
        last = await penstock.request("flow.fail", {"flow_id": flow["flow_id"], "reason": "r"})
        while len(events) < last["revision"]:
            events.append(msgspec.json.decode((await heard.next_msg(timeout=WAIT_S)).data))
        names = ["created", "started", "state_updated", "executions_added", "failed"]
        assert [(event["seq"], event["event"]) for event in events] == list(enumerate(names, 1))
        assert events[-1]["reason"] == "r"
