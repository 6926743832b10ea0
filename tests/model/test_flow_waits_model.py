"""Compare flows that wait, in the Lua library on a real Valkey, with the plain-Python model in flow_waits_reference.py.

Durations are odd multiples of 30 s and the clock moves in minutes, so the few milliseconds that the ops themselves take
never decide what is due.
"""

from typing import Any

from flow_machine import LEASE_MS, OUTCOME, FlowMachine, Graph, graphs
from flow_waits_reference import Wait
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test
from profile_of_models import PROFILE

from penstock.errors import PenstockError

HALF = LEASE_MS
CORRELATION = "c"
WAIT = st.builds(
    lambda kind, lasts, topic: Wait(
        kind,
        None if kind == "manual" else lasts or (HALF if kind == "timer" else None),
        topic if kind == "external_event" else None,
    ),
    st.sampled_from(["external_event", "external_event", "external_event", "timer", "manual"]),
    st.sampled_from([None, None, HALF, 3 * HALF, -HALF]),
    st.sampled_from(["a", "a", "a", "b"]),
)
"""A wait whose end is still counted from now."""
EVENT = st.sampled_from(["a0", "a0", "a0", "a1", "b0"])
"""An event's id, which begins with its topic."""
DIES = st.booleans()
"""Whether a router dies between its two steps."""
HAPPENING = st.one_of(
    st.tuples(st.just("wait"), WAIT, DIES),
    st.tuples(st.just("event_comes"), EVENT, DIES),
    st.tuples(st.just("event_comes"), EVENT, DIES),
    st.tuples(st.just("time_passes"), st.lists(DIES, min_size=1, max_size=2)),
    st.tuples(st.just("time_passes"), st.lists(DIES, min_size=1, max_size=2)),
    st.tuples(st.just("work"), st.sampled_from([10, 1]), st.lists(OUTCOME, max_size=4)),
    st.tuples(st.sampled_from(["resume", "resume", "start", "claim"])),
    st.tuples(st.sampled_from(["write", "late_wakes_come", "late_wakes_come"])),
    st.tuples(st.just("request_cancel"), st.sampled_from([False, False, False, True])),
)
"""What befalls a flow: the name of a method, and its arguments."""


class FlowWaits(FlowMachine):
    """A flow that waits again and again. `grants`: not claimed yet; `late`: requests of routers that have died."""

    @initialize(graph=graphs(attempts=(5,), most=3))
    def open(self, graph: Graph) -> None:
        self.create(graph)
        self.grants: list[tuple[str, str]] = []
        self.late: list[dict[str, Any]] = []
        self.start_flow()

    @rule(
        before=st.sampled_from([None, None, "a0", "a1", "a2"]),
        most=st.sampled_from([10, 1, 0]),
        grants=st.sampled_from([0, 0, 1, 2]),
        wait=WAIT,
        dies=DIES,
        then=st.lists(HAPPENING, min_size=1, max_size=8),
    )
    def life(
        self,
        before: str | None,
        most: int,
        grants: int,
        wait: Wait,
        dies: bool,
        then: list[tuple[Any, ...]],
    ) -> None:
        """Let the flow wait, perhaps for what came `before`, while some members are granted and some run.

        Then things happen. All is one rule, as Hypothesis leaves many rules out of an example.
        """
        if before is not None:
            self.event_comes(before, dies)
        if grants:
            self._grant(grants)
        if most:
            self.take_members(most)
        self.wait(wait, dies)
        for name, *args in then:
            self.agrees()
            getattr(self, name)(*args)

    # -- waits ------------------------------------------------------------------------------------

    def wait(self, wait: Wait, dies: bool) -> None:
        """Begin a wait. An event that came before wakes the flow."""
        begin: dict[str, Any] = {"flow_id": self.flow_id, "wait": {"kind": wait.kind}}
        wait = Wait(wait.kind, None if wait.ends_at is None else self.now + wait.ends_at, wait.topic)
        if wait.ends_at is not None:
            begin["at"] = self.base + wait.ends_at
        if wait.topic is not None:
            begin |= {"topic": wait.topic, "correlation_id": CORRELATION}
        refused = self.flow.set_waiting(self.now, wait)
        reply = self.tried("signal-router", "flow_set_waiting", refused, **begin)
        if reply is not None:
            expected = self.flow.came_before(self.now)
            event = reply.get("event")
            assert (event and event["event_id"]) == (expected and expected.event_id)
            if event is not None:
                self._wake(reply["wait_id"], reply["flow"]["revision"], event["event_id"], dies)

    def event_comes(self, event_id: str, dies: bool) -> None:
        """Let an event come, for the first time or again."""
        come = {"topic": event_id[0], "correlation_id": CORRELATION, "event_id": event_id, "body": "{}"}
        reply = self.call("signal-router", "event_come", **come)
        self.flow.comes(self.now, event_id, event_id[0])
        assert [each["flow_id"] for each in reply["waiters"]] == [self.flow_id] * self.flow.awaits(event_id)
        for waiter in reply["waiters"]:
            self._wake(waiter["wait_id"], waiter["revision"], event_id, dies)

    def _wake(self, wait_id: str, revision: int, event_id: str, dies: bool) -> None:
        """Do a router's second step. The request of a router that has died may still come, but late."""
        wake = {"flow_id": self.flow_id, "wait_id": wait_id, "event_id": event_id, "revision": revision}
        wake |= {"topic": event_id[0], "body": "{}"}
        if dies:
            self.late.append(wake)
        else:
            assert self.call("signal-router", "flow_wake", **wake)["done"]
            self.flow.wake(event_id)

    def late_wakes_come(self) -> None:
        """Only a flow that has not changed since may be woken by the request of a router that has died."""
        for wake in self.late:
            self.rooms.look()
            before = self.rooms.flows[self.flow_id]
            unchanged = before["revision"] == wake["revision"]
            waits = before.get("wait_id") == wake["wait_id"] and self.flow.awaits(wake["event_id"])
            reply = self.call("signal-router", "flow_wake", **wake)
            assert reply["done"] == (unchanged or not waits)
            if waits and unchanged:
                self.flow.wake(wake["event_id"])
        self.late.clear()

    def resume(self) -> None:
        self.tried("signal-router", "flow_resume", self.flow.resume(), flow_id=self.flow_id)

    def start(self) -> None:
        self.start_flow()

    def write(self) -> None:
        """Change the flow's revision, but not its wait."""
        self.tried("scheduler", "flow_update_state", self.flow.refuses_changes(), flow_id=self.flow_id)

    def request_cancel(self, really: bool) -> None:
        if really:
            self.ask_to_cancel()

    def time_passes(self, minutes: list[bool]) -> None:
        """Let leases and grants expire; waits may be over, and events of routers that died are handed out again."""
        for dies in minutes:
            self._minute_passes(dies)
            self.agrees()

    def _minute_passes(self, dies: bool) -> None:
        self.leases_expire()
        self.grants.clear()
        reply = self.call("signal-router", "due", limit=100)
        assert not reply.get("errors"), reply
        event = self.flow.due(self.now)
        outside = reply.get("outside", [])
        assert [each["event"]["event_id"] for each in outside] == ([] if event is None else [event.event_id])
        self.rooms.look()
        for each in outside:
            revision = self.rooms.flows[self.flow_id]["revision"]
            self._wake(each["wait_id"], revision, each["event"]["event_id"], dies)

    # -- members ----------------------------------------------------------------------------------

    def work(self, most: int, then: list[tuple[int, bool]]) -> None:
        self.take_members(most)
        self.end_members(then)

    def _grant(self, most: int) -> None:
        """Grant ready members, to be claimed later."""
        if self.flow.status in ("running", "waiting"):
            grants = self.runner.run(self.machine.grant(most))
            assert not grants or self.flow.status == "running"
            for grant_id, execution_id, *_ in grants:
                key = self.key_of(execution_id)
                self.grants.append((grant_id, key))
                self.flow.members[key].granted = True

    def claim(self) -> None:
        """Claim what was granted; nothing while the flow waits."""
        for grant_id, key in self.grants[:]:
            claim = {"execution_id": self.ids[key], "grant_id": grant_id, "worker_id": "w", "verb": "any"}
            claim |= {"lease_ttl_ms": LEASE_MS, "start": True}
            [task] = self.calls("lease-keeper", [(0, "claim", claim)])
            ready = self.flow.members[key].state == "ready"
            if isinstance(task, PenstockError):
                waits = ready and self.flow.status == "waiting"
                assert task.code == ("execution_not_in_eligible_set" if waits else "execution_not_leaseable")
                assert waits or not ready or self.flow.status == "cancelled"
            else:
                assert ready and self.flow.status in ("running", "failed")
                self.grants.remove((grant_id, key))
                self.begins(task)


def test_flow_waits_against_the_model() -> None:
    run_state_machine_as_test(
        FlowWaits, settings=settings(PROFILE, max_examples=2 * PROFILE.max_examples, stateful_step_count=6)
    )
