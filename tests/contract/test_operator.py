"""An operator suspends and resumes executions, sends signals without a token, and reads waitpoints."""

import asyncio
import importlib
from typing import Any

import msgspec
import pytest

from penstock import Client
from penstock.runtime import start
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

HOUR_MS = 3_600_000


async def running(penstock: RunningPenstock, **spec: Any) -> dict[str, Any]:
    await penstock.create(**spec)
    return await penstock.begin()


async def state(penstock: RunningPenstock, task: dict[str, Any]) -> tuple[str, str | None]:
    record = await penstock.get(task["execution_id"])
    return record["state"], record["reason"]


async def suspend(penstock: RunningPenstock, task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return await penstock.request("lease.suspend", fence(task) | more)


class TestHold:
    async def test_what_runs_is_held_and_goes_on(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        await penstock.nats.flush()
        held = await penstock.request(
            "execution.suspend", {"execution_id": task["execution_id"], "reason": "look first"}
        )
        assert held == {"state": "suspended"}
        assert await state(penstock, task) == ("suspended", "operator")
        push = msgspec.json.decode((await pushed.next_msg(timeout=WAIT_S)).data)
        assert push["execution_id"] == task["execution_id"]
        assert (await penstock.refused("lease.renew", fence(task))).code == "lease_revoked"
        explained = await penstock.request("execution.explain", {"execution_id": task["execution_id"]})
        assert explained["waiting_for"]["kind"] == "operator"
        resumed = await penstock.request("execution.resume", {"execution_id": task["execution_id"]})
        assert resumed == {"state": "ready"}
        again = await penstock.begin()
        assert (again["attempt_index"], again["resumed"]) == (1, True)
        assert (await penstock.request("signal.resumed_by", fence(again)))["items"] == []
        record = await penstock.get(task["execution_id"])
        assert record["reclaims"] == 0

    async def test_only_what_runs_can_be_held(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        for _ in range(2):
            error = await penstock.refused("execution.suspend", {"execution_id": execution_id})
            assert (error.code, error.detail["from"]) == ("illegal_transition", "ready")
        error = await penstock.refused("execution.resume", {"execution_id": execution_id})
        assert error.code == "illegal_transition"
        await penstock.request("execution.cancel", {"execution_id": execution_id})
        for verb in ("execution.suspend", "execution.resume"):
            assert (await penstock.refused(verb, {"execution_id": execution_id})).code == "already_terminal"
            assert (await penstock.refused(verb, {"execution_id": NOWHERE})).code == "execution_not_found"

    @pytest.mark.parametrize("reason", ["signal", "delay", "children", "operator"])
    async def test_every_suspension_can_be_ended(self, penstock: RunningPenstock, reason: str) -> None:
        task = await running(penstock)
        match reason:
            case "signal":
                await suspend(penstock, task, timeout_ms=HOUR_MS)
            case "delay":
                now = (await penstock.get(task["execution_id"]))["updated_at"]
                await penstock.request("lease.delay", fence(task) | {"until": now + HOUR_MS})
            case "children":
                await penstock.create(parent_id=task["execution_id"], lane="later")
                await penstock.request("lease.await_children", fence(task))
            case _:
                await penstock.request("execution.suspend", {"execution_id": task["execution_id"]})
        assert await state(penstock, task) == ("suspended", reason)
        await penstock.request("execution.resume", {"execution_id": task["execution_id"], "reason": "go"})
        again = await penstock.begin()
        assert again["execution_id"] == task["execution_id"]
        assert (await penstock.request("signal.resumed_by", fence(again)))["items"] == []
        assert (await penstock.request("lease.complete", fence(again)))["state"] == "completed"

    async def test_a_held_one_can_be_canceled(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        await penstock.request("execution.suspend", {"execution_id": task["execution_id"]})
        await penstock.request("execution.cancel", {"execution_id": task["execution_id"]})
        assert await state(penstock, task) == ("canceled", None)

    async def test_one_that_was_asked_to_stop_is_canceled(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        await penstock.request("execution.cancel", {"execution_id": task["execution_id"]})
        reply = await penstock.request("execution.suspend", {"execution_id": task["execution_id"]})
        assert reply == {"state": "canceled"}

    async def test_after_escalation_only_an_operator_ends_the_wait(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        await suspend(penstock, task, timeout_ms=1000, timeout_behavior="escalate", condition={"name": "a"})
        penstock.move_clock(2000)
        history = await penstock.until(
            lambda: penstock.request("execution.history", {"execution_id": task["execution_id"]}),
            lambda page: page["items"][-1]["event"] == "escalated",
        )
        assert history["items"][-1]["reason"] == "suspension_timeout"
        assert await state(penstock, task) == ("suspended", "signal")
        await penstock.request("execution.resume", {"execution_id": task["execution_id"]})
        assert await state(penstock, task) == ("ready", None)


class TestSend:
    async def test_a_signal_without_a_token_resumes(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        await suspend(penstock, task, condition={"name": "approved"})
        sent = {
            "execution_id": task["execution_id"],
            "name": "approved",
            "payload": {"by": "me"},
            "reason": "r",
        }
        assert (await penstock.request("signal.send", sent))["effect"] == "resumed"
        again = await penstock.begin()
        [signal] = (await penstock.request("signal.resumed_by", fence(again)))["items"]
        assert (signal["name"], signal["payload"]) == ("approved", {"by": "me"})

    async def test_it_names_a_pending_waitpoint_by_its_key(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        to = {"execution_id": task["execution_id"], "name": "n"}
        assert (await penstock.refused("signal.send", to)).code == "waitpoint_not_found"
        for key in ("a", "b"):
            await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": key})
        assert "several" in (await penstock.refused("signal.send", to)).message
        assert (await penstock.request("signal.send", to | {"waitpoint_key": "b"}))["effect"] == "buffered"
        repeated = to | {"waitpoint_key": "b", "signal_id": "s"}
        effects = [(await penstock.request("signal.send", repeated))["effect"] for _ in range(2)]
        assert effects == ["buffered", "duplicate"]


class TestWaitpoints:
    async def test_they_are_shown_without_their_tokens(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
        got = await penstock.request("waitpoint.get", {"waitpoint_id": made["waitpoint_id"]})
        assert (got["status"], got["waitpoint_key"], got["expires_at"]) == (
            "pending",
            "k",
            made["expires_at"],
        )
        assert "token" not in got
        tree = {"count": 2, "distinct_sources": True, "of": [{"name": "review.*"}]}
        await suspend(penstock, task, waitpoint_id=made["waitpoint_id"], condition=tree)
        sent = {"execution_id": task["execution_id"], "name": "review.a"}
        await penstock.request("signal.send", sent)
        got = await penstock.request("waitpoint.get", {"waitpoint_id": made["waitpoint_id"]})
        assert (got["status"], got["condition"], got["received"]) == ("active", tree, {"review.a": 1})
        assert got["missing"] == ["1 more of 'review.*' from other sources"]
        await penstock.request("execution.resume", {"execution_id": task["execution_id"]})
        got = await penstock.request("waitpoint.get", {"waitpoint_id": made["waitpoint_id"]})
        assert (got["status"], got["missing"]) == ("closed", [])
        assert (
            await penstock.refused("waitpoint.get", {"waitpoint_id": NOWHERE})
        ).code == "waitpoint_not_found"

    async def test_lists_page_and_filter(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        ids = [
            (await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": f"k{n}"}))[
                "waitpoint_id"
            ]
            for n in range(5)
        ]
        await penstock.request("waitpoint.close", {"waitpoint_id": ids[0], "reason": "no more"})
        of = {"execution_id": task["execution_id"]}
        page = await penstock.request("waitpoint.list", of | {"limit": 3})
        rest = await penstock.request("waitpoint.list", of | {"limit": 3, "cursor": page["cursor"]})
        assert [each["waitpoint_id"] for each in page["items"] + rest["items"]] == ids[::-1]
        pending = await penstock.request("waitpoint.list", {"status": "pending"})
        assert [each["waitpoint_id"] for each in pending["items"]] == ids[:0:-1]
        closed = await penstock.request("waitpoint.list", of | {"status": "closed"})
        assert [each["waitpoint_id"] for each in closed["items"]] == ids[:1]
        assert (await penstock.request("waitpoint.list", {"namespace": "other"}))["items"] == []

    async def test_a_closed_ones_token_is_dead(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
        at = {"waitpoint_id": made["waitpoint_id"]}
        for _ in range(2):
            assert (await penstock.request("waitpoint.close", at))["status"] == "closed"
        error = await penstock.refused("signal.deliver", {"token": made["token"], "name": "n"})
        assert error.code == "invalid_token"
        active = await suspend(penstock, task)
        error = await penstock.refused("waitpoint.close", {"waitpoint_id": active["waitpoint_id"]})
        assert error.code == "illegal_transition"


class TestSignalList:
    async def test_what_came_and_what_satisfied(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
        at = {"waitpoint_id": made["waitpoint_id"]}
        assert await penstock.request("signal.list", at) == {"items": [], "cursor": None}
        token = {"token": made["token"]}
        await penstock.request(
            "signal.deliver", token | {"name": "note", "signal_id": "a", "payload": [1.50]}
        )
        [note] = (await penstock.request("signal.list", at))["items"]
        assert note.pop("at") > 0
        assert note == {
            "signal_id": "a", "name": "note", "payload": [1.5], "source": None, "satisfied": False,
        }  # fmt: skip
        await suspend(penstock, task, **at, condition={"name": "yes"})
        for signal_id in ("b", "b"):
            sent = {"name": "yes", "signal_id": signal_id, "source": "ada", "payload": {"n": 1}}
            await penstock.request("signal.deliver", token | sent)
        # The execution goes on; what satisfied its wait can still be read.
        await penstock.request("signal.deliver", token | {"name": "late"})
        found = (await penstock.request("signal.list", at))["items"]
        assert [(each["signal_id"], each["satisfied"]) for each in found] == [("a", False), ("b", True)]
        assert (found[1]["source"], found[1]["payload"]) == ("ada", {"n": 1})

    async def test_pages_and_batches(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        at = {"waitpoint_id": (await suspend(penstock, task, condition={"name": "yes"}))["waitpoint_id"]}
        sent = [{"execution_id": task["execution_id"], "name": "no", "payload": "x" * 200_000}] * 5
        await penstock.request("signal.send", sent)
        page = await penstock.request("signal.list", at | {"limit": 2})
        assert len(page["items"]) == 2
        rest = await penstock.request("signal.list", at | {"cursor": page["cursor"]})
        assert (len(rest["items"]), rest["cursor"]) == (3, None)
        ids = [each["signal_id"] for each in page["items"] + rest["items"]]
        assert len(set(ids)) == 5
        # A page ends before it outgrows a message.
        whole = await penstock.request("signal.list", at)
        assert (len(whole["items"]), whole["cursor"]) == (3, "3")
        first, second = await penstock.request("signal.list", [at | {"limit": 1}, {"waitpoint_id": NOWHERE}])
        assert [each["signal_id"] for each in first["ok"]["items"]] == ids[:1]
        assert second["error"]["code"] == "waitpoint_not_found"
        error = await penstock.refused("signal.list", at | {"cursor": "a"})
        assert (error.code, error.detail) == ("invalid_request", {"field": "cursor"})

    async def test_by_the_client(self, penstock: RunningPenstock, nats_url: str) -> None:
        task = await running(penstock)
        at = (await suspend(penstock, task, condition={"name": "yes"}))["waitpoint_id"]
        for n in range(3):
            sent = {"execution_id": task["execution_id"], "name": "no", "payload": {"n": n}}
            await penstock.request("signal.send", sent)
        async with await Client.connect(nats_url, root=penstock.root) as client:
            got = [each.payload async for each in client.waitpoints.signals(at, page=2)]
        assert got == [{"n": 0}, {"n": 1}, {"n": 2}]


class TestRotation:
    async def test_old_tokens_hold_for_the_grace(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        old = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
        rotated = await penstock.request("waitpoint.rotate_secret", {"grace_ms": 60_000})
        assert rotated["previous_key_id"] == old["token"].partition(".")[0] != rotated["key_id"]
        new = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
        assert new["token"].partition(".")[0] == rotated["key_id"]
        for token in (old["token"], new["token"]):
            reply = await penstock.request("signal.deliver", {"token": token, "name": "n"})
            assert reply["effect"] == "buffered"
        penstock.move_clock(61_000)

        async def late() -> dict[str, Any]:
            """Deliver with the old token. A router learns the moved time only when it next looks at due work."""
            sent = {"token": old["token"], "name": "n"}
            return msgspec.json.decode((await penstock.ask("signal.deliver", msgspec.json.encode(sent))).data)

        answer = await penstock.until(late, lambda answer: "error" in answer)
        assert answer["error"]["code"] == "token_expired"
        assert (await penstock.request("signal.deliver", {"token": new["token"], "name": "n"}))["effect"]

    async def test_every_router_signs_with_the_new_key_at_once(self, penstock: RunningPenstock) -> None:
        build = importlib.import_module("penstock_signal_router.service").build
        settings = msgspec.structs.replace(penstock.settings, instance="another")
        penstock.running["signal-router-2"] = await start("signal-router", build, settings)
        task = await running(penstock)
        for n in range(5):
            await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": f"a{n}"})
        rotated = await penstock.request("waitpoint.rotate_secret", {"grace_ms": 0})

        async def signed() -> set[str]:
            made = await asyncio.gather(
                *(
                    penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": f"b{n}"})
                    for n in range(20)
                )
            )
            return {each["token"].partition(".")[0] for each in made}

        async with asyncio.timeout(WAIT_S):
            while await signed() != {rotated["key_id"]}:  # each round sends requests to the routers
                pass

    async def test_two_at_once_leave_one_ring(self, penstock: RunningPenstock) -> None:
        rotated = await asyncio.gather(
            *(penstock.request("waitpoint.rotate_secret", {"grace_ms": 1000}) for _ in range(5))
        )
        assert len({each["key_id"] for each in rotated}) == 5
        assert len({each["previous_key_id"] for each in rotated}) == 5
