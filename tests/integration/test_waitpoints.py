"""Waitpoints, conditions and signals: the signal-router's ops on a real Valkey."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from penstock.errors import PenstockError
from penstock.ids import new_id
from penstock.machine.conditions import MAX_DEPTH, MAX_NODES, compiled
from penstock.messages.signals import Condition
from running_penstock import NOWHERE
from state_machine import StateMachine

ROUTER = "signal-router"
DAY_MS = 86_400_000
APPROVED = {"name": "approved"}


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


def fence(task: dict[str, Any]) -> dict[str, Any]:
    return {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}


def condition(tree: dict[str, Any] | None) -> dict[str, Any] | None:
    return compiled(msgspec.convert(tree, Condition | None))


async def begin(machine: StateMachine, **spec: Any) -> dict[str, Any]:
    await machine.create(**spec)
    [task] = await machine.take()
    return task


async def waitpoint(
    machine: StateMachine, task: dict[str, Any], key: str = "k", expires_in_ms: int = DAY_MS
) -> str:
    args = {"id": new_id(0), "waitpoint_key": key, "expires_in_ms": expires_in_ms}
    return (await machine(ROUTER, "create", **fence(task), **args))["waitpoint_id"]


def suspension(task: dict[str, Any], tree: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    args = {"id": new_id(0), "waitpoint_key": "default", "reason_code": "signal", "timeout_behavior": "fail"}
    return {**fence(task), **args, "condition": condition(tree), **more}


async def suspend(
    machine: StateMachine, task: dict[str, Any], tree: Any = None, **more: Any
) -> dict[str, Any]:
    return await machine(ROUTER, "suspend", **suspension(task, tree, **more))


async def signal(machine: StateMachine, to: str, name: str, signal_id: str | None = None, **more: Any) -> str:
    args = {"waitpoint_id": to, "signal_id": signal_id or new_id(0), "name": name, **more}
    return (await machine(ROUTER, "deliver", **args))["effect"]


async def resumed_by(machine: StateMachine, task: dict[str, Any]) -> list[str]:
    reply = await machine(ROUTER, "resumed_by", **fence(task), skip=0, limit=1000)
    return [item["name"] for item in reply["items"]]


class TestSignals:
    async def test_a_signal_resumes_and_is_handed_to_the_next_lease(self, machine: StateMachine) -> None:
        task = await begin(machine)
        reply = await suspend(machine, task, APPROVED)
        waiting = reply["waitpoint_id"]
        assert reply["outcome"] == "suspended" and reply["key"] == "default" and reply["suspension_id"]
        record = await machine.get(task["execution_id"])
        assert (record["state"], record["reason"], record.get("lease")) == ("suspended", "signal", None)

        assert await signal(machine, waiting, "rejected") == "recorded"
        assert await signal(machine, waiting, "approved", "s1", payload='{"by":1}', source="a") == "resumed"
        assert await signal(machine, waiting, "approved", "s1") == "duplicate"
        assert await signal(machine, waiting, "approved", "s2") == "ignored"

        [again] = await machine.take()
        assert again["resumed"] is True and again["attempt_index"] == task["attempt_index"]
        page = await machine(ROUTER, "resumed_by", **fence(again), skip=0, limit=10)
        [item] = page["items"]
        assert item.pop("at") > 0
        assert item == {"signal_id": "s1", "name": "approved", "source": "a", "payload": '{"by":1}'}
        assert page["more"] is False
        assert await machine.names("waitpoint", waiting) == [
            "created", "opened", "signal_recorded", "signal_recorded", "satisfied", "signal_ignored",
        ]  # fmt: skip
        assert (await machine.names("execution", task["execution_id"]))[2:] == [
            "suspended", "resumed", "started",
        ]  # fmt: skip

    async def test_the_grant_of_a_resumed_one_says_so(self, machine: StateMachine) -> None:
        task = await begin(machine)
        await signal(machine, (await suspend(machine, task))["waitpoint_id"], "x")
        [[_, execution_id, resumed, reclaim, _]] = await machine.grant()
        assert (execution_id, resumed, reclaim) == (task["execution_id"], True, False)

    async def test_early_signals_are_buffered_and_meet_the_condition_at_once(
        self, machine: StateMachine
    ) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task)
        assert await signal(machine, pending, "approved", "s1", payload="[]") == "buffered"
        assert await signal(machine, pending, "approved", "s1") == "duplicate"
        await signal(machine, pending, "other")
        reply = await suspend(machine, task, APPROVED, waitpoint_id=pending)
        assert reply["outcome"] == "already_satisfied"
        assert [item["signal_id"] for item in reply["items"]] == ["s1"] and reply["items"][0][
            "payload"
        ] == "[]"
        # The lease is kept, a repeat gets the same reply, and later signals are ignored.
        assert await suspend(machine, task, APPROVED, waitpoint_id=pending) == reply
        assert await signal(machine, pending, "approved") == "ignored"
        assert await resumed_by(machine, task) == ["approved"]
        assert (await machine.get(task["execution_id"]))["state"] == "running"
        # A worker that takes over after a crash still finds the signals.
        machine.skew_ms += 60_000
        await machine.due("lease-keeper")
        [again] = await machine.take()
        assert again["resumed"] and await resumed_by(machine, again) == ["approved"]

    async def test_buffered_signals_count_towards_what_is_still_missing(self, machine: StateMachine) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task)
        await signal(machine, pending, "approved")
        reply = await suspend(machine, task, {"count": 2, "of": [APPROVED]}, waitpoint_id=pending)
        assert (reply["outcome"], reply["waitpoint_id"]) == ("suspended", pending)
        assert await signal(machine, pending, "approved") == "resumed"
        [again] = await machine.take()
        assert await resumed_by(machine, again) == ["approved", "approved"]

    async def test_resumed_by_comes_in_pages(self, machine: StateMachine) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task)
        for number in range(5):
            await signal(machine, pending, f"n{number}")
        await suspend(machine, task, waitpoint_id=pending)
        first = await machine(ROUTER, "resumed_by", **fence(task), skip=0, limit=3)
        rest = await machine(ROUTER, "resumed_by", **fence(task), skip=3, limit=3)
        assert [item["name"] for item in first["items"] + rest["items"]] == [f"n{n}" for n in range(5)]
        assert (first["more"], rest["more"]) == (True, False)

    async def test_signals_of_an_earlier_suspension_or_attempt_are_not_answered(
        self, machine: StateMachine
    ) -> None:
        task = await begin(machine, max_attempts=2, backoff={"delay_ms": 10})
        await signal(machine, (await suspend(machine, task))["waitpoint_id"], "first")
        [task] = await machine.take()
        await suspend(machine, task, timeout_ms=1000, timeout_behavior="resume")
        machine.skew_ms += 1001
        await machine.due(ROUTER)
        [task] = await machine.take()
        assert task["resumed"] and await resumed_by(machine, task) == []
        await signal(machine, (await suspend(machine, task))["waitpoint_id"], "second")
        [task] = await machine.take()
        await machine.outcome("fail", task, reason="no")
        machine.skew_ms += 1000
        await machine.due("lease-keeper")
        [task] = await machine.take()
        assert not task["resumed"] and await resumed_by(machine, task) == []


class TestConditions:
    @pytest.mark.parametrize(
        ("tree", "signals", "met_at"),
        [
            (None, ["x"], 1),
            ({"name": "a"}, ["ab", "b", "a"], 3),
            ({"name": "review.*"}, ["review", "reviewer.x", "review.x.y"], 3),
            ({"any_of": [{"name": "a"}, {"name": "b"}]}, ["c", "b"], 2),
            ({"all_of": [{"name": "a"}, {"name": "b"}]}, ["a", "a", "b"], 3),
            ({"count": 3, "of": [{"name": "a"}, {"name": "b"}]}, ["a", "c", "b", "a"], 4),
            ({"count": 2, "distinct_sources": True, "of": [{"name": "a"}]}, ["a@x", "a@x", "b@y", "a@y"], 4),
            ({"count": 2, "distinct_sources": True, "of": [{"name": "a"}]}, ["a", "a", "a@y"], 3),
            # Each node counts its own signals: two of a and two of b, whatever comes in between.
            (
                {"all_of": [{"count": 2, "of": [{"name": "a"}]}, {"count": 2, "of": [{"name": "b"}]}]},
                ["a", "b", "c", "a", "b"],
                5,
            ),
            # A nested group counts once it is met itself, with the signals that met it.
            (
                {"count": 3, "of": [{"all_of": [{"name": "a"}, {"name": "b"}]}, {"name": "c"}]},
                ["a", "a", "c", "b"],
                4,
            ),
            (
                {"any_of": [{"name": "x"}, {"all_of": [{"name": "r.*"},
                 {"count": 2, "of": [{"name": "a"}]}]}]},
                ["a", "r.1", "a"],
                3,
            ),
        ],
    )  # fmt: skip
    async def test_evaluation(
        self, machine: StateMachine, tree: Any, signals: list[str], met_at: int
    ) -> None:
        task = await begin(machine)
        waiting = (await suspend(machine, task, tree))["waitpoint_id"]
        effects: list[str] = []
        for each in signals:
            name, _, source = each.partition("@")
            effects.append(await signal(machine, waiting, name, source=source or None))
        assert effects == ["recorded"] * (met_at - 1) + ["resumed"]

    @pytest.mark.parametrize(
        "tree",
        [
            {},
            {"name": "a", "any_of": [{"name": "b"}]},
            {"count": 2},
            {"of": [{"name": "a"}]},
            {"name": "a", "of": [{"name": "a"}]},
            {"name": "a", "distinct_sources": True},
            {"any_of": [{"name": "a"}, {}]},
            {"any_of": [{"any_of": [{"name": "a"}] * 40}, {"any_of": [{"name": "a"}] * (MAX_NODES - 40)}]},
        ],
    )
    def test_malformed_ones_are_refused(self, tree: dict[str, Any]) -> None:
        with pytest.raises(PenstockError, match="condition") as refused:
            condition(tree)
        assert refused.value.code == "invalid_request" and refused.value.detail["field"].startswith(
            "condition"
        )

    def test_depth_is_limited(self) -> None:
        tree: dict[str, Any] = {"name": "a"}
        for _ in range(MAX_DEPTH - 1):
            tree = {"all_of": [tree]}
        assert condition(tree)
        with pytest.raises(PenstockError, match="deep"):
            condition({"any_of": [tree]})


class TestSuspend:
    async def test_a_repeat_is_answered_as_the_first(self, machine: StateMachine) -> None:
        task = await begin(machine)
        first = await suspend(machine, task, APPROVED)
        assert await suspend(machine, task, APPROVED) == first
        error = await machine.refused(ROUTER, "create", **fence(task), id=new_id(0), waitpoint_key="k")
        assert error.code == "stale_lease"

    async def test_only_what_runs_can_be_suspended(self, machine: StateMachine) -> None:
        await machine.create()
        [task] = await machine.take(start=False)
        error = await machine.refused(ROUTER, "suspend", **suspension(task))
        assert (error.code, error.detail) == ("illegal_transition", {"from": "leased", "to": "suspended"})

    async def test_fences(self, machine: StateMachine) -> None:
        task = await begin(machine)
        for wrong in ({"lease_id": "x"}, {"lease_epoch": 9}, {"attempt_index": 9}):
            error = await machine.refused(ROUTER, "suspend", **(suspension(task) | wrong))
            assert error.code == "stale_lease"
            error = await machine.refused(ROUTER, "resumed_by", **(fence(task) | wrong), skip=0, limit=1)
            assert error.code == "stale_lease"
        await machine.outcome("complete", task)
        error = await machine.refused(ROUTER, "suspend", **suspension(task))
        assert error.code == "execution_not_active"

    async def test_unknown_foreign_and_ended_waitpoints(self, machine: StateMachine) -> None:
        task = await begin(machine)
        other = await begin(machine)
        foreign = await waitpoint(machine, other)
        expired = await waitpoint(machine, task, expires_in_ms=10)
        machine.skew_ms += 11
        for wrong in (NOWHERE, foreign, expired):
            error = await machine.refused(ROUTER, "suspend", **suspension(task, waitpoint_id=wrong))
            assert error.code == "waitpoint_not_found"
        assert (await machine.get(task["execution_id"]))["state"] == "running"

    async def test_a_pending_key_must_be_named_by_its_id(self, machine: StateMachine) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task, "approval")
        error = await machine.refused(ROUTER, "suspend", **suspension(task, waitpoint_key="approval"))
        assert (error.code, error.detail) == ("waitpoint_pending_use_buffer", {"waitpoint_id": pending})

    async def test_what_is_to_be_canceled_is_canceled(self, machine: StateMachine) -> None:
        task = await begin(machine)
        await machine(
            "cancel-reconciler", "cancel", execution_id=task["execution_id"], reason="no", grace_ms=1000
        )
        assert await suspend(machine, task) == {"outcome": "canceled"}
        assert await suspend(machine, task) == {"outcome": "canceled"}
        assert (await machine.get(task["execution_id"]))["state"] == "canceled"


class TestTimeouts:
    @pytest.mark.parametrize(
        ("behavior", "state", "event"),
        [("fail", "failed", "failed"), ("cancel", "canceled", "canceled"), ("resume", "ready", "resumed")],
    )
    async def test_behaviors(self, machine: StateMachine, behavior: str, state: str, event: str) -> None:
        task = await begin(machine, max_attempts=3)
        waiting = (await suspend(machine, task, timeout_ms=500, timeout_behavior=behavior))["waitpoint_id"]
        machine.skew_ms += 400
        await machine.due(ROUTER)
        assert (await machine.get(task["execution_id"]))["state"] == "suspended"
        machine.skew_ms += 101
        await machine.due(ROUTER)
        record = await machine.get(task["execution_id"])
        assert record["state"] == state
        assert (record.get("failure") or {}).get("category") == (
            "suspension_timeout" if behavior == "fail" else None
        )
        assert (await machine.names("execution", task["execution_id"]))[-1] == event
        assert await signal(machine, waiting, "late") == "ignored"
        assert "closed" in await machine.names("waitpoint", waiting)

    async def test_escalate_tells_once_and_waits_on(self, machine: StateMachine) -> None:
        task = await begin(machine)
        reply = await suspend(machine, task, timeout_ms=500, timeout_behavior="escalate")
        machine.skew_ms += 501
        await machine.due(ROUTER)
        machine.skew_ms += 10_000
        await machine.due(ROUTER)
        assert (await machine.get(task["execution_id"]))["state"] == "suspended"
        assert (await machine.names("execution", task["execution_id"])).count("escalated") == 1
        assert await signal(machine, reply["waitpoint_id"], "x") == "resumed"

    async def test_a_timeout_in_time_for_a_signal_is_forgotten(self, machine: StateMachine) -> None:
        task = await begin(machine)
        reply = await suspend(machine, task, timeout_ms=500)
        await signal(machine, reply["waitpoint_id"], "x")
        machine.skew_ms += 1000
        await machine.due(ROUTER)
        assert (await machine.get(task["execution_id"]))["state"] == "ready"

    async def test_the_due_loop_hears_of_it(self, machine: StateMachine) -> None:
        task = await begin(machine)
        await suspend(machine, task, timeout_ms=500)
        assert any(ROUTER in hints.get("due", {}) for hints in machine.hints)


class TestLife:
    async def test_the_same_key_is_the_same_waitpoint_while_it_is_pending(
        self, machine: StateMachine
    ) -> None:
        task = await begin(machine)
        first = await waitpoint(machine, task, "a")
        assert await waitpoint(machine, task, "a") == first
        assert await waitpoint(machine, task, "b") != first
        await suspend(machine, task, waitpoint_id=first)
        await signal(machine, first, "x")
        [task] = await machine.take()
        assert await waitpoint(machine, task, "a") != first

    async def test_pending_ones_expire(self, machine: StateMachine) -> None:
        task = await begin(machine)
        ids = [await waitpoint(machine, task, key, expires_in_ms=100) for key in ("a", "b")]
        machine.skew_ms += 101
        assert await signal(machine, ids[0], "x") == "ignored"  # even before the due loop has run
        await machine.due(ROUTER)
        assert await signal(machine, ids[1], "x") == "ignored"
        for each in ids:
            assert await machine.names("waitpoint", each) == ["created", "expired", "signal_ignored"]

    async def test_pending_ones_outlive_a_lost_lease_but_not_their_attempt(
        self, machine: StateMachine
    ) -> None:
        task = await begin(machine, max_attempts=2, backoff={"delay_ms": 10})
        pending = await waitpoint(machine, task)
        machine.skew_ms += 60_000
        await machine.due("lease-keeper")
        [task] = await machine.take()
        assert await signal(machine, pending, "x") == "buffered"
        await machine.outcome("fail", task, reason="no")
        assert await signal(machine, pending, "x") == "ignored"
        assert (await machine.names("waitpoint", pending))[-2:] == ["closed", "signal_ignored"]

    async def test_the_end_of_the_execution_closes_them(self, machine: StateMachine) -> None:
        task = await begin(machine)
        ids = [await waitpoint(machine, task, key) for key in ("a", "b")]
        await suspend(machine, task, waitpoint_id=ids[0])
        await machine("cancel-reconciler", "cancel", execution_id=task["execution_id"], reason="", grace_ms=0)
        for each in ids:
            assert await signal(machine, each, "x") == "ignored"

    async def test_nothing_is_left_behind(self, machine: StateMachine) -> None:
        task = await begin(machine)
        ids = [await waitpoint(machine, task, key) for key in ("a", "b", "c")]
        await signal(machine, ids[0], "x", payload="1")
        await suspend(machine, task, waitpoint_id=ids[0])
        await suspend(machine, task, waitpoint_id=ids[1])
        await signal(machine, ids[1], "x")
        [task] = await machine.take()
        machine.skew_ms += DAY_MS + 1
        await machine.due(ROUTER)
        # A waitpoint whose signals the execution may still read stays; the other one goes.
        assert await machine(ROUTER, "peek", waitpoint_id=ids[1])
        assert not await machine(ROUTER, "peek", waitpoint_id=ids[0])
        await machine.due("lease-keeper")
        [task] = await machine.take()
        await machine.outcome("complete", task)
        machine.skew_ms += 8 * DAY_MS
        await machine.due(ROUTER)
        await machine.due("scheduler")
        store = machine.stores[ROUTER]
        keys = {key.decode().split("}:")[1] for key in await store.execute("KEYS", f"{machine.root}:*")}
        assert keys == {"outbox", "partitions"}

    async def test_a_full_waitpoint_refuses_new_signals_but_knows_repeats(
        self, machine: StateMachine
    ) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task)
        store = machine.stores[ROUTER]
        await store.call_many(
            [
                (0, "deliver", {"waitpoint_id": pending, "signal_id": f"s{n}", "name": "n", "source": f"{n}"})
                for n in range(1000)
            ]
        )
        error = await machine.refused(ROUTER, "deliver", waitpoint_id=pending, signal_id="s1000", name="n")
        assert (error.code, error.detail) == ("payload_too_large", {"limit": 1000, "size": 1001})
        assert await signal(machine, pending, "n", "s999") == "duplicate"
        tree = {"count": 1000, "distinct_sources": True, "of": [{"name": "n"}]}
        reply = await suspend(machine, task, tree, waitpoint_id=pending)
        assert reply["outcome"] == "already_satisfied" and len(reply["items"]) == 1000

    async def test_a_waitpoint_holds_so_many_bytes(self, machine: StateMachine) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task)
        payload = f'"{"x" * 1_048_000}"'
        for _ in range(4):
            assert await signal(machine, pending, "n", payload=payload) == "buffered"
        error = await machine.refused(
            ROUTER, "deliver", waitpoint_id=pending, signal_id="s", name="n", payload=payload
        )
        assert error.code == "payload_too_large"

    async def test_an_execution_has_so_many_waitpoints(self, machine: StateMachine) -> None:
        task = await begin(machine)
        for number in range(64):
            await waitpoint(machine, task, f"k{number}")
        args = {"id": new_id(0), "waitpoint_key": "one-more", "expires_in_ms": 1000}
        assert (await machine.refused(ROUTER, "create", **fence(task), **args)).code == "invalid_request"


class TestRejections:
    async def test_events_of_refused_tokens_are_few(self, machine: StateMachine) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task)
        for _ in range(30):
            await machine(ROUTER, "reject", waitpoint_id=pending, reason="wrong")
            await machine(ROUTER, "reject", waitpoint_id=NOWHERE, reason="wrong")
            await machine(ROUTER, "reject", reason="malformed")
        assert await machine.names("waitpoint", pending) == ["created"] + ["token_rejected"] * 10
        assert await machine.names("waitpoint", "0-unknown") == ["token_rejected"] * 10
        machine.skew_ms += 10_000
        await machine(ROUTER, "reject", waitpoint_id=pending, reason="wrong")
        assert len(await machine.names("waitpoint", pending)) == 12

    async def test_events_hold_no_payload(self, machine: StateMachine) -> None:
        task = await begin(machine)
        pending = await waitpoint(machine, task)
        await signal(machine, pending, "n", "s1", payload='"private"', source="me")
        [event] = [
            event for event in await machine.events("waitpoint", pending) if event[1] == "signal_buffered"
        ]
        assert event[7] == {"signal_id": "s1", "name": "n", "source": "me"}
