"""The mirror-observer, tested over NATS only."""

from typing import Any

import msgspec
import pytest

from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

FLOW = {"controller_id": "c", "goal": "g", "owner": "o"}


async def mirror(penstock: RunningPenstock, **more: Any) -> str:
    return (await penstock.request("flow.create_mirrored", {**FLOW, **more}))["flow_id"]


def observation(flow_id: str, status: str, run_id: str = "r1", **more: Any) -> dict[str, Any]:
    return {"flow_id": flow_id, "run_id": run_id, "task": "compile", "status": status, **more}


async def publish(penstock: RunningPenstock, flow_id: str, body: Any, message_id: str | None = None) -> None:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    headers = {"Nats-Msg-Id": message_id} if message_id else None
    await penstock.js.publish(f"{penstock.root}.observation.{flow_id}", data, headers=headers)


async def steps(penstock: RunningPenstock, flow_id: str) -> list[dict[str, Any]]:
    page = await penstock.request("flow.steps", {"flow_id": flow_id})
    assert page["cursor"] is None
    return page["items"]


async def flow(penstock: RunningPenstock, flow_id: str) -> dict[str, Any]:
    return await penstock.request("flow.get", {"flow_id": flow_id})


async def dead_reason(penstock: RunningPenstock, subject: str) -> str:
    """Return why the message on this subject became a dead letter."""
    dead = await penstock.js.subscribe(
        f"{penstock.root}.dead.{subject}", stream=f"{penstock.root.upper()}_DEAD", ordered_consumer=True
    )
    message = await dead.next_msg(timeout=WAIT_S)
    return (message.headers or {})["Penstock-Dead-Reason"]


async def dropped(penstock: RunningPenstock, flow_id: str) -> str:
    """Return why an observation of this flow was dropped, from the audit trail."""
    trail = await penstock.js.subscribe(
        f"{penstock.root}.audit.*.flow.observation_dropped",
        stream=f"{penstock.root.upper()}_AUDIT",
        ordered_consumer=True,
    )
    event = msgspec.json.decode((await trail.next_msg(timeout=WAIT_S)).data)
    assert event["id"] == flow_id
    return event["reason"]


class TestCreate:
    async def test_it_is_born_running(self, penstock: RunningPenstock) -> None:
        made = await penstock.request(
            "flow.create_mirrored", {**FLOW, "state": {"big": 2**62, "empty": []}, "requester_origin": "x"}
        )
        assert (made["kind"], made["status"], made["revision"]) == ("mirrored", "running", 1)
        found = await flow(penstock, made["flow_id"])
        assert found["state"] == {"big": 2**62, "empty": []}
        assert found["requester_origin"] == "x" and found["cancel_requested"] is False

    async def test_the_same_key_answers_the_first_flow(self, penstock: RunningPenstock) -> None:
        body = {**FLOW, "idempotency_key": "k1"}
        first = await penstock.request("flow.create_mirrored", body)
        again = await penstock.request("flow.create_mirrored", body)
        assert (again["flow_id"], first["duplicate"], again["duplicate"]) == (first["flow_id"], False, True)
        error = await penstock.refused("flow.create_mirrored", {**body, "goal": "other"})
        assert error.code == "idempotency_conflict"

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"completion": "on_task"}, "completion_task"),
            ({"completion_task": "t"}, "completion_task"),
            ({"completion": "some"}, "completion"),
            ({"members": []}, "members"),
            ({"owner": "a.b"}, "owner"),
        ],
    )
    async def test_wrong_requests_name_the_field(
        self, penstock: RunningPenstock, wrong: dict[str, Any], field: str
    ) -> None:
        error = await penstock.refused("flow.create_mirrored", {**FLOW, **wrong})
        assert error.code == "invalid_request" and error.detail["field"] == field


class TestObserve:
    async def test_a_step_is_inserted_then_updated(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock)
        first = await penstock.request("flow.observe", observation(flow_id, "running", observed_at=10))
        assert first["applied"] is True and first["result"] is None
        last = await penstock.request(
            "flow.observe", observation(flow_id, "succeeded", observed_at=20, result={"n": 2**62, "e": []})
        )
        assert last["created_at"] == first["created_at"]
        [step] = await steps(penstock, flow_id)
        assert (step["status"], step["runtime"], step["observed_at"]) == ("succeeded", "mirrored", 20)
        assert step["result"] == {"n": 2**62, "e": []}
        assert (await flow(penstock, flow_id))["revision"] == 3

    async def test_late_ones_change_nothing(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock)
        await penstock.request("flow.observe", observation(flow_id, "succeeded", observed_at=20))
        for status, at in (("running", 10), ("running", 30), ("failed", 30)):
            late = await penstock.request("flow.observe", observation(flow_id, status, observed_at=at))
            assert late["applied"] is False and late["status"] == "succeeded"
        assert (await flow(penstock, flow_id))["revision"] == 2

    async def test_a_batch_is_answered_one_by_one(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock)
        answers = await penstock.request(
            "flow.observe",
            [
                observation(flow_id, "pending", "a"),
                observation(NOWHERE, "pending"),
                observation(flow_id, "lost"),
                observation(flow_id, "pending", "b"),
            ],
        )
        assert [answer.get("error", {}).get("code") for answer in answers] == [
            None,
            "flow_not_found",
            "invalid_request",
            None,
        ]
        assert [step["run_id"] for step in await steps(penstock, flow_id)] == ["a", "b"]

    async def test_a_flow_that_ended_takes_no_more(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock, completion="all_steps")
        await penstock.request("flow.observe", observation(flow_id, "failed"))
        assert (await flow(penstock, flow_id))["status"] == "failed"
        error = await penstock.refused("flow.observe", observation(flow_id, "running", "other"))
        assert error.code == "already_terminal"

    async def test_a_managed_flow_is_not_observed(self, penstock: RunningPenstock) -> None:
        made = await penstock.request("flow.create", FLOW)
        error = await penstock.refused("flow.observe", observation(made["flow_id"], "running"))
        assert error.code == "invalid_request" and error.detail["field"] == "flow_id"

    @pytest.mark.parametrize("field", ["run_id", "task", "status"])
    async def test_what_is_missing_is_named(self, penstock: RunningPenstock, field: str) -> None:
        flow_id = await mirror(penstock)
        body = observation(flow_id, "running")
        del body[field]
        error = await penstock.refused("flow.observe", body)
        assert error.code == "invalid_request" and error.detail["field"] == field


class TestPublished:
    async def test_a_runner_is_followed_to_the_end(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock, completion="all_steps")
        for run in range(20):
            await publish(penstock, flow_id, observation(flow_id, "pending", f"r{run}"), f"p{run}")
        for run in range(20):
            body = {"run_id": f"r{run}", "task": "compile", "status": "succeeded", "result": run}
            await publish(penstock, flow_id, body, f"s{run}")
        await penstock.until(lambda: flow(penstock, flow_id), lambda found: found["status"] == "finished")
        found = await steps(penstock, flow_id)
        assert [step["result"] for step in found] == list(range(20))
        assert (await flow(penstock, flow_id))["counts"] == {"succeeded": 20}

    async def test_what_is_published_while_nobody_listens_is_kept(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock)
        await penstock.running["mirror-observer"].stop()
        await publish(penstock, flow_id, observation(flow_id, "running"))
        await penstock.start_again("mirror-observer")
        await penstock.until(lambda: steps(penstock, flow_id), lambda found: len(found) == 1)

    async def test_twice_and_out_of_order(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock)
        await publish(penstock, flow_id, observation(flow_id, "succeeded", observed_at=20), "m2")
        await publish(penstock, flow_id, observation(flow_id, "running", observed_at=10), "m1")
        await publish(penstock, flow_id, observation(flow_id, "succeeded", observed_at=20), "m2")
        await publish(penstock, flow_id, observation(flow_id, "pending", "last"))
        found = await penstock.until(lambda: steps(penstock, flow_id), lambda found: len(found) == 2)
        assert found[0]["status"] == "succeeded"
        assert (await flow(penstock, flow_id))["revision"] == 3

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"{", "invalid_request"),
            (b'{"run_id": "r", "task": "t", "status": "gone"}', "invalid_request"),
            (b'{"run_id": "r", "task": "t", "status": "running", "x": 1}', "invalid_request"),
            (b'[{"run_id": "r", "task": "t", "status": "running"}]', "invalid_request"),
            (
                f'{{"run_id":"r","task":"t","status":"running","flow_id":"{NOWHERE}"}}'.encode(),
                "another flow",
            ),
        ],
    )
    async def test_what_cannot_be_applied_is_a_dead_letter(
        self, penstock: RunningPenstock, body: bytes, reason: str
    ) -> None:
        flow_id = await mirror(penstock)
        await publish(penstock, flow_id, body)
        assert reason in await dead_reason(penstock, f"observation.{flow_id}")
        assert await dropped(penstock, flow_id) == "invalid_request"
        assert await steps(penstock, flow_id) == []
        await publish(penstock, flow_id, observation(flow_id, "running"))  # the next observation is applied
        await penstock.until(lambda: steps(penstock, flow_id), lambda found: len(found) == 1)

    async def test_so_is_one_for_an_unknown_flow(self, penstock: RunningPenstock) -> None:
        await publish(penstock, NOWHERE, observation(NOWHERE, "running"))
        assert "flow_not_found" in await dead_reason(penstock, f"observation.{NOWHERE}")
        await publish(penstock, "nonsense", observation(NOWHERE, "running"))
        assert "invalid_request" in await dead_reason(penstock, "observation.nonsense")


class TestSteps:
    async def test_pages(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock)
        runs = [f"r{9 - n}" for n in range(5)]
        await penstock.request("flow.observe", [observation(flow_id, "pending", run) for run in runs])
        seen: list[str] = []
        body: dict[str, Any] = {"flow_id": flow_id, "limit": 2}
        while True:
            page = await penstock.request("flow.steps", body)
            seen += [step["run_id"] for step in page["items"]]
            if page["cursor"] is None:
                break
            body["cursor"] = page["cursor"]
        assert seen == runs

    async def test_large_results_make_short_pages(self, penstock: RunningPenstock) -> None:
        flow_id = await mirror(penstock)
        for run in range(4):
            body = observation(flow_id, "succeeded", f"r{run}", result="x" * 400_000)
            await penstock.request("flow.observe", body)
        page = await penstock.request("flow.steps", {"flow_id": flow_id})
        assert len(page["items"]) == 2
        rest = await penstock.request("flow.steps", {"flow_id": flow_id, "cursor": page["cursor"]})
        assert len(rest["items"]) == 2

    async def test_a_managed_flows_members(self, penstock: RunningPenstock) -> None:
        members = [{"key": "a", "kind": "k"}, {"key": "b", "kind": "k"}]
        made = await penstock.request("flow.create", {**FLOW, "members": members})
        await penstock.request("flow.start", {"flow_id": made["flow_id"]})
        task = await penstock.begin()
        await penstock.request("lease.complete", {**fence(task), "result": [1]})
        found = await steps(penstock, made["flow_id"])
        assert [(step["task"], step["runtime"]) for step in found] == [("a", "managed"), ("b", "managed")]
        assert sorted(step["status"] for step in found) == ["pending", "succeeded"]

    async def test_errors(self, penstock: RunningPenstock) -> None:
        assert (await penstock.refused("flow.steps", {"flow_id": NOWHERE})).code == "flow_not_found"
        flow_id = await mirror(penstock)
        for cursor in ("x", "-1", "9" * 20):
            error = await penstock.refused("flow.steps", {"flow_id": flow_id, "cursor": cursor})
            assert error.code == "invalid_request" and error.detail["field"] == "cursor"


async def test_cancelling_a_mirrored_flow(penstock: RunningPenstock) -> None:
    flow_id = await mirror(penstock)
    reply = await penstock.request("flow.cancel", {"flow_id": flow_id, "wait": True})
    assert (reply["result"], reply["member_execution_ids"]) == ("cancelled", [])
    assert (await flow(penstock, flow_id))["status"] == "cancelled"
