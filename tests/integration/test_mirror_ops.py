"""The mirror-observer's ops, on a real Valkey."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.ids import new_id
from running_penstock import NOWHERE
from state_machine import StateMachine

OBSERVER = "mirror-observer"


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


async def mirror(machine: StateMachine, **more: Any) -> str:
    args = {"controller_id": "c", "goal": "g", "owner": "o", "state": "{}", "completion": "manual", **more}
    return (await machine(OBSERVER, "create_mirrored", id=new_id(0), **args))["flow_id"]


async def observe(
    machine: StateMachine, flow_id: str, status: str, run_id: str = "r1", task: str = "compile", **more: Any
) -> dict[str, Any]:
    """Observe a step by a request, or, with a `message_id`, by a published message."""
    op = "apply" if "message_id" in more else "observe"
    return await machine(OBSERVER, op, flow_id=flow_id, run_id=run_id, task=task, status=status, **more)


async def steps(machine: StateMachine, flow_id: str) -> list[dict[str, Any]]:
    return list((await machine(OBSERVER, "steps", flow_id=flow_id, after=0, limit=100, bytes=9999))["items"])


async def dropped(machine: StateMachine, flow_id: str) -> list[str]:
    """Return the reasons why observations of the flow were dropped."""
    return [event[6] for event in await machine.events("flow", flow_id) if event[1] == "observation_dropped"]


async def test_a_mirrored_flow_is_born_running(machine: StateMachine) -> None:
    flow = await machine.flow_get(await mirror(machine))
    assert (flow["kind"], flow["status"], flow["revision"]) == ("mirrored", "running", 1)


async def test_the_same_key_makes_one_flow(machine: StateMachine) -> None:
    first = await mirror(machine, idempotency_key="k", digest="d")
    assert await mirror(machine, idempotency_key="k", digest="d") == first
    error = await machine.refused(
        OBSERVER, "create_mirrored", id=new_id(0), owner="o", idempotency_key="k", digest="other"
    )
    assert error.code == "idempotency_conflict"


async def test_a_step_is_inserted_then_updated(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    first = await observe(machine, flow_id, "running", observed_at=10, child_session_key="s")
    assert first["applied"] is True and (first["status"], first["observed_at"]) == ("running", 10)
    last = await observe(machine, flow_id, "succeeded", observed_at=20, result="[1]")
    assert last["applied"] is True
    [step] = await steps(machine, flow_id)
    assert (step["status"], step["result"], step["child_session_key"]) == ("succeeded", "[1]", "s")
    assert (step["runtime"], step["created_at"]) == ("mirrored", first["created_at"])
    flow = await machine.flow_get(flow_id)
    assert flow["revision"] == 3 and flow["counts"] == {"succeeded": 1}
    assert await machine.names("flow", flow_id) == ["created", "observed", "observed"]


async def test_without_an_instant_it_is_valkeys_now(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    step = await observe(machine, flow_id, "running")
    assert step["observed_at"] == step["updated_at"]


async def test_steps_are_listed_oldest_first_in_slices(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    for n in range(5):
        await observe(machine, flow_id, "pending", run_id=f"r{9 - n}", result='"x"')
    await observe(machine, flow_id, "running", run_id="r9")
    first = await machine(OBSERVER, "steps", flow_id=flow_id, after=0, limit=3, bytes=999)
    rest = await machine(OBSERVER, "steps", flow_id=flow_id, after=first["after"], limit=3, bytes=999)
    assert [step["run_id"] for step in first["items"] + rest["items"]] == ["r9", "r8", "r7", "r6", "r5"]
    assert "after" not in rest
    small = await machine(OBSERVER, "steps", flow_id=flow_id, after=0, limit=3, bytes=4)
    assert [step["run_id"] for step in small["items"]] == ["r9", "r8"]


OBSERVED = [("pending", 10), ("running", 20), ("running", 30), ("succeeded", 40)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_in_any_order_the_newest_stands(machine: StateMachine, order: tuple[int, ...]) -> None:
    flow_id = await mirror(machine)
    applied = 0
    for n in (*order, *order):
        status, at = OBSERVED[n]
        applied += (await observe(machine, flow_id, status, observed_at=at, message_id=f"m{n}"))["applied"]
    [step] = await steps(machine, flow_id)
    assert (step["status"], step["observed_at"]) == ("succeeded", 40)
    assert (await machine.flow_get(flow_id))["revision"] == 1 + applied
    assert len(await machine.names("flow", flow_id)) == 1 + applied + len(await dropped(machine, flow_id))


async def test_an_older_observation_is_dropped_with_an_event(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    await observe(machine, flow_id, "running", observed_at=20)
    late = await observe(machine, flow_id, "pending", observed_at=10)
    assert late["applied"] is False and late["status"] == "running"
    assert await dropped(machine, flow_id) == ["stale"]
    assert (await machine.flow_get(flow_id))["revision"] == 2


async def test_without_instants_the_order_is_that_of_publishing(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    for status, at, applied in (("running", 20, True), ("pending", 10, False), ("pending", 30, True)):
        assert (await observe(machine, flow_id, status, published_at=at, message_id=f"m{at}-{status}"))[
            "applied"
        ] is applied
    assert (await steps(machine, flow_id))[0]["status"] == "pending"
    assert await dropped(machine, flow_id) == ["stale"]


async def test_of_one_instant_the_further_status_wins(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    await observe(machine, flow_id, "running", observed_at=20)
    assert (await observe(machine, flow_id, "pending", observed_at=20))["applied"] is False
    assert (await observe(machine, flow_id, "failed", observed_at=20))["applied"] is True


async def test_a_terminal_step_keeps_its_status(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    await observe(machine, flow_id, "succeeded", observed_at=10)
    for status in ("running", "failed", "cancelled"):
        assert (await observe(machine, flow_id, status, observed_at=99))["applied"] is False
    assert await dropped(machine, flow_id) == ["step_terminal"] * 3
    later = await observe(machine, flow_id, "succeeded", observed_at=99, result='"late"')
    assert later["applied"] is True and later["result"] == '"late"'


async def test_a_message_is_applied_once(machine: StateMachine) -> None:
    flow_id = await mirror(machine)
    for status in ("pending", "running"):
        await observe(machine, flow_id, status, message_id=status)
    # Without observed_at the repeated message would look newer than the step.
    assert await observe(machine, flow_id, "pending", message_id="pending") == {"applied": False}
    assert (await steps(machine, flow_id))[0]["status"] == "running"
    assert await dropped(machine, flow_id) == []


async def test_a_repeat_after_a_lost_reply_changes_nothing(machine: StateMachine) -> None:
    flow_id = await mirror(machine, completion="all_steps")
    await observe(machine, flow_id, "succeeded", result="1")
    again = await observe(machine, flow_id, "succeeded", result="1")
    assert again["applied"] is False and (await machine.flow_get(flow_id))["status"] == "finished"
    assert await dropped(machine, flow_id) == []


class TestCompletion:
    async def test_manual_goes_on(self, machine: StateMachine) -> None:
        flow_id = await mirror(machine)
        await observe(machine, flow_id, "succeeded")
        assert (await machine.flow_get(flow_id))["status"] == "running"

    @pytest.mark.parametrize(
        ("last", "ending"), [("succeeded", "finished"), ("failed", "failed"), ("cancelled", "finished")]
    )
    async def test_all_steps(self, machine: StateMachine, last: str, ending: str) -> None:
        flow_id = await mirror(machine, completion="all_steps")
        await observe(machine, flow_id, "pending", run_id="a")
        await observe(machine, flow_id, "pending", run_id="b")
        await observe(machine, flow_id, "succeeded", run_id="a")
        assert (await machine.flow_get(flow_id))["status"] == "running"
        await observe(machine, flow_id, last, run_id="b")
        assert (await machine.flow_get(flow_id))["status"] == ending

    @pytest.mark.parametrize(
        ("status", "ending"), [("succeeded", "finished"), ("failed", "failed"), ("cancelled", "cancelled")]
    )
    async def test_on_task(self, machine: StateMachine, status: str, ending: str) -> None:
        flow_id = await mirror(machine, completion="on_task", completion_task="report")
        await observe(machine, flow_id, "failed", run_id="a")
        await observe(machine, flow_id, "running", run_id="b", task="report")
        assert (await machine.flow_get(flow_id))["status"] == "running"
        await observe(machine, flow_id, status, run_id="b", task="report")
        assert (await machine.flow_get(flow_id))["status"] == ending

    async def test_a_wait_does_not_hold_up_the_end(self, machine: StateMachine) -> None:
        flow_id = await mirror(machine, completion="all_steps")
        await observe(machine, flow_id, "running")
        await machine("signal-router", "flow_set_waiting", flow_id=flow_id, wait={"kind": "manual"})
        assert (await observe(machine, flow_id, "succeeded"))["applied"] is True
        assert (await machine.flow_get(flow_id))["status"] == "finished"
        names = await machine.names("flow", flow_id)
        assert names[-4:] == ["waiting", "observed", "resumed", "finished"]

    async def test_with_cancel_intent_it_is_cancelled(self, machine: StateMachine) -> None:
        flow_id = await mirror(machine, completion="all_steps")
        await observe(machine, flow_id, "running")
        await machine("cancel-reconciler", "flow_request_cancel", flow_id=flow_id)
        assert (await observe(machine, flow_id, "succeeded"))["applied"] is True
        assert (await machine.flow_get(flow_id))["status"] == "cancelled"


class TestRefused:
    async def test_a_flow_that_ended_takes_no_more(self, machine: StateMachine) -> None:
        flow_id = await mirror(machine)
        await observe(machine, flow_id, "running", observed_at=10)
        await machine("cancel-reconciler", "flow_cancel", flow_id=flow_id, policy="cancel_all", grace_ms=0)
        error = await machine.refused(
            OBSERVER, "observe", flow_id=flow_id, run_id="r1", task="compile", status="succeeded"
        )
        assert error.code == "already_terminal" and error.detail == {"status": "cancelled"}
        assert await dropped(machine, flow_id) == ["flow_terminal"]
        assert (await steps(machine, flow_id))[0]["status"] == "running"

    async def test_unknown_and_managed_flows(self, machine: StateMachine) -> None:
        observation = {"run_id": "r", "task": "t", "status": "running"}
        error = await machine.refused(OBSERVER, "observe", flow_id=NOWHERE, **observation)
        assert error.code == "flow_not_found"
        flow_id, _ = await machine.flow(["a"])
        error = await machine.refused(OBSERVER, "observe", flow_id=flow_id, **observation)
        assert error.code == "invalid_request" and error.detail["field"] == "flow_id"
        error = await machine.refused(OBSERVER, "steps", flow_id=NOWHERE, after=0, limit=1, bytes=1)
        assert error.code == "flow_not_found"


async def test_a_managed_flows_members_appear_as_steps(machine: StateMachine) -> None:
    flow_id, ids = await machine.flow(["done", "held", "ready", "later"], [("ready", "later")])
    tasks = {task["execution_id"]: task for task in await machine.take(2)}
    await machine.outcome("complete", tasks[ids["done"]], result="[7]")
    found = await steps(machine, flow_id)
    assert [(step["task"], step["status"]) for step in found] == [
        ("done", "succeeded"),
        ("held", "running"),
        ("ready", "pending"),
        ("later", "pending"),
    ]
    assert {step["runtime"] for step in found} == {"managed"}
    assert found[0]["run_id"] == ids["done"] and found[0]["result"] == "[7]"


async def test_retention_takes_the_steps_along(machine: StateMachine) -> None:
    flow_id = await mirror(machine, completion="all_steps")
    await observe(machine, flow_id, "succeeded")
    machine.skew_ms += 8 * 24 * 3_600_000
    await machine.due("scheduler")
    keys = await machine.stores[OBSERVER].execute("KEYS", f"{machine.root}:*{flow_id}*")
    assert keys == []
