"""Compare random graphs in the Lua library on a real Valkey with the plain-Python model in flow_reference.py."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from flow_reference import Flow, Member
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from profile_of_models import PROFILE
from redis import Redis
from state_dump import StateDump

import servers
from penstock.errors import PenstockError
from penstock.ids import new_id
from state_machine import StateMachine

RETENTION = 7 * 86_400_000
LEASE_MS = 30_000
Call = tuple[int, str, dict[str, Any]]


@st.composite
def graphs(draw: Any) -> tuple[list[Member], list[dict[str, str]], dict[str, dict[str, Any]]]:
    """Draw members, edges that only lead forward (no cycles), and joins."""
    size = draw(st.integers(1, 9))
    members = [Member(f"m{n}", draw(st.sampled_from([1, 1, 2]))) for n in range(size)]
    edges: list[dict[str, str]] = []
    joins: dict[str, dict[str, Any]] = {}
    for n, child in enumerate(members[1:], 1):
        for parent in members[:n]:
            if draw(st.sampled_from([True, False, False])):
                edges.append({"from": parent.key, "to": child.key})
                child.parents.append(parent.key)
                parent.children.append(child.key)
        if child.parents:
            child.policy = draw(st.sampled_from(["all_of", "any_of", "any_of", "quorum"]))
            child.cancel_remaining = draw(st.booleans())
            joins[child.key] = {
                "policy": child.policy,
                "on_satisfied": "cancel_remaining" if child.cancel_remaining else "let_run",
            }
            if child.policy == "quorum":
                child.k = joins[child.key]["k"] = draw(st.integers(1, len(child.parents)))
    return members, edges, joins


class Flows(RuleBasedStateMachine):
    """One flow with a few members; worker `w` holds the running ones."""

    valkey_url = ""

    @initialize(graph=graphs())
    def open(self, graph: Any) -> None:
        members, edges, joins = graph
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.machine = self.runner.run(self.stack.enter_async_context(StateMachine.open(self.valkey_url)))
        self.redis: Redis[bytes] = Redis.from_url(self.valkey_url)
        self.rooms = StateDump(self.redis, self.machine.root, RETENTION)
        self.flow = Flow(members)
        self.ids = {member.key: new_id(0) for member in members}
        self.held: dict[str, dict[str, Any]] = {}
        self.flow_id = new_id(0)
        specs = [
            {
                "key": member.key,
                "kind": "t",
                "execution_id": self.ids[member.key],
                "max_attempts": member.attempts,
                "backoff": {"kind": "fixed", "delay_ms": LEASE_MS},
            }
            for member in members
        ]
        self._call(
            "scheduler",
            "flow_create",
            id=self.flow_id,
            controller_id="c",
            goal="g",
            owner="o",
            state="{}",
            members=specs,
            edges=edges,
            joins=joins,
        )

    def teardown(self) -> None:
        if hasattr(self, "rooms"):
            self.rooms.clear()
            self.redis.close()
            self.runner.run(self.stack.aclose())
            self.runner.close()

    def _call(self, service: str, op: str, **args: Any) -> dict[str, Any]:
        return self.runner.run(self.machine(service, op, **args))

    def _calls(self, service: str, calls: list[Call]) -> list[Any]:
        """Send all calls in one FCALL."""

        async def call() -> list[Any]:
            return await self.machine.stores[service].call_many(calls)

        return self.runner.run(call())

    # -- rules ------------------------------------------------------------------------------------

    @rule()
    def start(self) -> None:
        [reply] = self._calls("scheduler", [(0, "flow_start", {"flow_id": self.flow_id})])
        refused = self.flow.start()
        assert (reply.code if isinstance(reply, PenstockError) else None) == refused

    @rule(most=st.sampled_from([10, 10, 2, 1]))
    def take(self, most: int) -> None:
        """Take ready members. A cancelled flow has none."""
        tasks = self.runner.run(self.machine.take(most, ttl_ms=LEASE_MS))
        by_id = {execution_id: key for key, execution_id in self.ids.items()}
        ready = {key for key, member in self.flow.members.items() if member.state == "ready"}
        taken = {by_id[task["execution_id"]] for task in tasks}
        assert taken <= ready
        assert len(taken) == min(most, len(ready))
        for task in tasks:
            member = self.flow.members[by_id[task["execution_id"]]]
            member.state, member.attempt = "running", task["attempt_index"]
            self.held[member.key] = task

    @rule(outcomes=st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=3))
    def outcomes(self, outcomes: list[tuple[int, bool]]) -> None:
        """End some of the running members in one call."""
        calls: list[Call] = []
        ended: list[tuple[str, bool]] = []
        running = [key for key in self.held if self.flow.members[key].state == "running"]
        for number, ok in outcomes:
            if not running:
                break
            key = running.pop(number % len(running))
            task = self.held.pop(key)
            fence = {
                name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")
            }
            calls.append((0, "complete", fence) if ok else (0, "fail", {**fence, "reason": "no"}))
            ended.append((key, ok))
        for reply, (key, ok) in zip(self._calls("lease-keeper", calls), ended, strict=True):
            assert not isinstance(reply, PenstockError), reply
            if ok:
                self.flow.end(key, "completed")
            else:
                self.flow.fail(key)
        self.flow.settle()

    @rule(number=st.integers(0, 8), really=st.sampled_from([False, False, True]))
    def cancel_a_member(self, number: int, really: bool) -> None:
        alive = [key for key, member in self.flow.members.items() if member.outcome is None]
        if really and alive:
            key = alive[number % len(alive)]
            self._call("cancel-reconciler", "cancel", execution_id=self.ids[key], reason="r", grace_ms=0)
            self.flow.end(key, "canceled")
            self.flow.settle()

    @rule(really=st.sampled_from([False, False, False, True]))
    def request_cancel(self, really: bool) -> None:
        if really and self.flow.status in ("created", "running"):
            self._call("cancel-reconciler", "flow_request_cancel", flow_id=self.flow_id)
            self.flow.cancel_requested = True

    @rule()
    def time_passes(self) -> None:
        """Move the clock so far that leases expire and backoffs end."""
        self.machine.skew_ms += 2 * LEASE_MS
        for service in ("lease-keeper", "scheduler"):
            self.runner.run(self.machine.due(service))
        for member in self.flow.members.values():
            if member.state in ("running", "retry_wait"):
                self.flow.give_back(member.key, "ready")

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "rooms"):
            return
        self.rooms.look()
        self.rooms.check()
        seen = {key: self.rooms.executions[each] for key, each in self.ids.items()}
        for key, member in self.flow.members.items():
            assert (seen[key]["state"], seen[key].get("outcome")) == (member.state, member.outcome), key
        assert self.rooms.flows[self.flow_id]["status"] == self.flow.status


@pytest.fixture(scope="module", autouse=True)
def valkey() -> Iterator[None]:
    with servers.valkey_server() as url:
        with Redis.from_url(url) as redis:
            redis.config_set("appendonly", "no")
        Flows.valkey_url = url
        yield


def test_flows_against_the_model() -> None:
    run_state_machine_as_test(Flows, settings=settings(PROFILE, stateful_step_count=20))
