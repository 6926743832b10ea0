"""Compare random graphs in the Lua library on a real Valkey with the plain-Python model in flow_reference.py."""

from flow_machine import OUTCOME, FlowMachine, Graph, graphs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test
from profile_of_models import PROFILE


class Flows(FlowMachine):
    """Members run and end as their joins say, until the flow has ended."""

    @initialize(graph=graphs(), started=st.sampled_from([True, True, True, False]))
    def open(self, graph: Graph, started: bool) -> None:
        self.create(graph)
        if started:
            self.start()

    @rule()
    def start(self) -> None:
        self.start_flow()

    @rule(most=st.sampled_from([10, 10, 2, 1]), then=st.lists(OUTCOME, max_size=3))
    def take(self, most: int, then: list[tuple[int, bool]]) -> None:
        """Take ready members, some of which end at once."""
        self.take_members(most)
        self.end_members(then)

    @rule(outcomes=st.lists(OUTCOME, min_size=1, max_size=3))
    def outcomes(self, outcomes: list[tuple[int, bool]]) -> None:
        self.end_members(outcomes)

    @rule(number=st.integers(0, 8), really=st.sampled_from([False, False, True]))
    def cancel_a_member(self, number: int, really: bool) -> None:
        alive = [key for key, member in self.flow.members.items() if member.outcome is None]
        if really and alive:
            key = alive[number % len(alive)]
            self.call("cancel-reconciler", "cancel", execution_id=self.ids[key], reason="r", grace_ms=0)
            self.flow.end(key, "canceled")
            self.flow.settle()

    @rule(really=st.sampled_from([False, False, False, True]))
    def request_cancel(self, really: bool) -> None:
        if really:
            self.ask_to_cancel()

    @rule()
    def time_passes(self) -> None:
        self.leases_expire()


def test_flows_against_the_model() -> None:
    run_state_machine_as_test(Flows, settings=settings(PROFILE, stateful_step_count=20))
