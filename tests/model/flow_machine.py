"""What the models of flows share: one flow with a few members in a real Valkey, beside its plain-Python model."""

from typing import Any

from base_of_models import Model
from flow_reference import Member
from flow_waits_reference import EVENT_TTL, WaitingFlow
from hypothesis import strategies as st
from hypothesis.stateful import invariant
from state_dump import StateDump

from penstock.errors import PenstockError
from penstock.ids import new_id

RETENTION = 7 * 86_400_000
LEASE_MS = 30_000
LIMITS = {"event_ttl_ms": EVENT_TTL, "grant_ttl_ms": LEASE_MS}
Call = tuple[int, str, dict[str, Any]]
Graph = tuple[list[Member], list[dict[str, str]], dict[str, dict[str, Any]]]
OUTCOME = st.tuples(st.integers(0, 8), st.sampled_from([True, True, True, False]))
"""Which of the running members ends, and whether well."""


@st.composite
def graphs(draw: Any, attempts: tuple[int, ...] = (1, 1, 2), most: int = 9) -> Graph:
    """Draw at most `most` members, edges that only lead forward (no cycles), and joins."""
    size = draw(st.integers(1, most))
    members = [Member(f"m{n}", draw(st.sampled_from(attempts))) for n in range(size)]
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


class FlowMachine(Model):
    """One flow; worker `w` holds its running members. `now` is the model's clock, `base` the time when it began."""

    def create(self, graph: Graph) -> None:
        members, edges, joins = graph
        self.begin(LIMITS)
        self.rooms = StateDump(self.redis, self.machine.root, RETENTION)
        seconds, micros = self.redis.time()
        self.base = seconds * 1000 + micros // 1000
        self.flow = WaitingFlow(members)
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
        about = {"controller_id": "c", "goal": "g", "owner": "o", "state": "{}"}
        graph_of = {"members": specs, "edges": edges, "joins": joins}
        self.call("scheduler", "flow_create", id=self.flow_id, **about, **graph_of)

    def call(self, service: str, op: str, **args: Any) -> dict[str, Any]:
        return self.runner.run(self.machine(service, op, **args))

    def calls(self, service: str, calls: list[Call]) -> list[Any]:
        """Send all calls in one FCALL."""

        async def call() -> list[Any]:
            return await self.machine.stores[service].call_many(calls)

        return self.runner.run(call())

    def tried(self, service: str, op: str, refused: str | None, **args: Any) -> dict[str, Any] | None:
        """Run an op that the model refuses with this code, or not. Return the reply, None for a refusal."""
        [reply] = self.calls(service, [(0, op, args)])
        if isinstance(reply, PenstockError):
            assert reply.code == refused
            return None
        assert refused is None, f"{refused} expected, answered {reply}"
        return reply

    # -- what befalls members ---------------------------------------------------------------------

    def start_flow(self) -> None:
        self.tried("scheduler", "flow_start", self.flow.start(), flow_id=self.flow_id)

    def take_members(self, most: int) -> None:
        """Take ready members. A cancelled flow has none, and none of a waiting flow is taken."""
        tasks = self.runner.run(self.machine.take(most, ttl_ms=LEASE_MS))
        ready = {key for key, each in self.flow.members.items() if each.state == "ready" and not each.granted}
        taken = {self.key_of(task["execution_id"]) for task in tasks}
        assert taken <= ready
        assert len(taken) == (min(most, len(ready)) if self.flow.status != "waiting" else 0)
        for task in tasks:
            self.begins(task)

    def key_of(self, execution_id: str) -> str:
        return next(key for key, each in self.ids.items() if each == execution_id)

    def begins(self, task: dict[str, Any]) -> None:
        member = self.flow.members[self.key_of(task["execution_id"])]
        member.state, member.attempt, member.granted = "running", task["attempt_index"], False
        self.held[member.key] = task

    def end_members(self, outcomes: list[tuple[int, bool]]) -> None:
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
        for reply, (key, ok) in zip(self.calls("lease-keeper", calls), ended, strict=True):
            assert not isinstance(reply, PenstockError), reply
            if ok:
                self.flow.end(key, "completed")
            else:
                self.flow.fail(key)
        self.flow.settle()

    def leases_expire(self) -> None:
        """Move the clock so far that leases and grants expire and backoffs end."""
        self.machine.skew_ms += 2 * LEASE_MS
        for service in ("lease-keeper", "scheduler"):
            self.runner.run(self.machine.due(service))
        for member in self.flow.members.values():
            member.granted = False
            if member.state in ("running", "retry_wait"):
                self.flow.give_back(member.key, "ready")

    def ask_to_cancel(self) -> None:
        if self.flow.status in ("created", "running", "waiting"):
            self.call("cancel-reconciler", "flow_request_cancel", flow_id=self.flow_id)
            self.flow.cancel_requested = True
            self.flow.settle(looks=True)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "rooms"):
            return
        self.rooms.look()
        self.rooms.check()
        seen = {key: self.rooms.executions[each] for key, each in self.ids.items()}
        for key, member in self.flow.members.items():
            assert (seen[key]["state"], seen[key].get("outcome")) == (member.state, member.outcome), key
        flow = self.rooms.flows[self.flow_id]
        assert flow["status"] == self.flow.status
        assert (flow.get("wait") or {}).get("kind") == (self.flow.wait and self.flow.wait.kind)
        assert set(flow.get("woken", ())) == self.flow.woken
