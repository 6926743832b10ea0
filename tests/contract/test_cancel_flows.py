"""A flow is cancelled in each status and by each policy; from then on nothing of it starts any more."""

from itertools import count
from typing import Any

import msgspec
import pytest

from flow_bodies import Graph, body_of
from lifecycles import HOUR_MS, last, outcome
from penstock.ids import partition_for, partition_of
from penstock.machine.ops import cancel_reconciler as ops
from running_penstock import RunningPenstock, fence

DAY_MS = 24 * HOUR_MS
WAITS: dict[str, Any] = {
    "timer": {"kind": "timer", "at": 4 * 10**12},
    "external_event": {"kind": "external_event", "topic": "ci.build", "correlation_id": "42"},
    "manual": {"kind": "manual"},
}
BEGUN = ("done", "running", "leased", "retry", "suspended")


async def make(penstock: RunningPenstock, status: str) -> Graph:
    """Make a flow in this status, or with this wait; unless it was only created, its members are in all states."""
    graph = await Graph.of(
        penstock,
        "done running leased retry suspended ready later",
        "ready>later",
        start=False,
        max_attempts=2,
    )
    if status == "created":
        return graph
    await graph.start()
    for task in await penstock.take(5, lease_ttl_ms=HOUR_MS):
        graph.held[graph.keys[task["execution_id"]]] = task
    assert graph.held.keys() == set(BEGUN)  # members are handed out in their order
    for key in graph.held.keys() - {"leased"}:
        await outcome(penstock, "start", graph.held[key])
    await graph.complete("done")
    await graph.fail("retry")
    await outcome(penstock, "suspend", graph.held.pop("suspended"), condition={"name": "approved"})
    if status != "running":
        body = {"flow_id": graph.flow_id, "wait": WAITS[status]}
        assert (await penstock.request("flow.set_waiting", body))["status"] == "waiting"
    return graph


async def cancel(graph: Graph, policy: str = "cancel_all", **more: Any) -> dict[str, Any]:
    body = {"flow_id": graph.flow_id, "policy": policy, "reason": "enough", "grace_ms": HOUR_MS, **more}
    return await graph.house.request("flow.cancel", body)


def of_state(states: dict[str, str], state: str) -> set[str]:
    return {key for key, its in states.items() if its == state}


async def names(penstock: RunningPenstock) -> set[str]:
    """Return the names of all keys, without root and partition."""
    return {key.partition("}:")[2] for key in await penstock.keys()}


@pytest.mark.parametrize("policy", ["cancel_all", "cancel_pending", "flow_only"])
@pytest.mark.parametrize("status", ["created", "running", *WAITS])
async def test_members(penstock: RunningPenstock, status: str, policy: str) -> None:
    graph = await make(penstock, status)
    before = await graph.states()
    reply = await cancel(graph, policy)
    flow = await graph.get()
    assert (flow["status"], flow["wait"]) == ("cancelled", None)
    held = {"running", "leased"} if status != "created" else set[str]()
    ended = of_state(before, "completed")
    asked = {
        "cancel_all": before.keys() - ended,
        "cancel_pending": before.keys() - ended - held,
        "flow_only": set[str](),
    }[policy]
    assert reply["result"] == ("cancellation_scheduled" if asked else "cancelled")
    assert {graph.keys[each] for each in reply["member_execution_ids"]} == asked
    states = await penstock.until(
        graph.states, lambda states: asked - held <= of_state(states, "canceled"), "what nobody holds"
    )
    assert {key: states[key] for key in before.keys() - asked | held} == {
        key: before[key] for key in before.keys() - asked | held
    }
    for key in asked - held:
        event = await last(penstock, graph.ids[key])
        assert (event["reason"], event["actor"]) == ("flow_cancelled", f"flow:{graph.flow_id}")
    # What workers hold may end: as canceled if the policy concerned it.
    for key in held:
        if key == "leased":
            await outcome(penstock, "start", graph.held[key])
        state = (await outcome(penstock, "complete", graph.held[key]))["state"]
        assert state == ("canceled" if policy == "cancel_all" else "completed")
    assert await graph.take() == set()
    penstock.move_clock(2 * HOUR_MS)
    assert await graph.take() == set()
    assert (await penstock.request("cancel.backlog"))["items"] == []
    # All members end, at the latest with the flow's retention, and the flow leaves without a trace.
    penstock.move_clock(8 * DAY_MS)
    kinds = (
        "f:",
        "fl:",
        "ct:",
        "fs:",
        "x:",
        "q:",
        "ew:",
        "due:scheduler",
        "due:cancel",
        "due:signal_router:f",
    )
    await penstock.until(
        lambda: names(penstock),
        lambda found: not [name for name in found if name.startswith(kinds)],
        "the flow's leaving",
    )


class TestWhatIsGivenBack:
    """Members that may end under their lease get no other lease: whatever gives them back cancels them."""

    WAYS: dict[str, tuple[str, dict[str, Any]]] = {
        "fail": ("lease.fail", {"reason": "r"}),
        "delay": ("lease.delay", {"until": 1}),
        "await_children": ("lease.await_children", {}),
        "suspend": ("lease.suspend", {"condition": {"name": "approved"}}),
        "revoke": ("lease.revoke", {}),
        "hold": ("execution.suspend", {}),
    }

    @pytest.mark.parametrize("policy", ["cancel_pending", "flow_only"])
    @pytest.mark.parametrize("way", [*WAYS, "lost"])
    async def test_is_canceled(self, penstock: RunningPenstock, way: str, policy: str) -> None:
        graph = await Graph.of(penstock, "a b", "a>b", max_attempts=2)
        await graph.take()
        await cancel(graph, policy)
        if way == "lost":
            penstock.move_clock(60_000)
        else:
            verb, more = self.WAYS[way]
            at = fence(graph.held["a"]) if verb.startswith("lease.") else {}
            if way in ("revoke", "hold"):
                at = {"execution_id": graph.ids["a"]}
            await penstock.request(verb, {**at, **more})
        record = await penstock.reaches(graph.ids["a"], "canceled")
        assert record["outcome"] == "canceled"
        assert (await last(penstock, graph.ids["a"]))["reason"] == "flow_cancelled"
        waitpoints = await penstock.request("waitpoint.list", {"execution_id": graph.ids["a"]})
        assert {item["status"] for item in waitpoints["items"]} <= {"closed"}
        assert await graph.take() == set()

    async def test_a_lease_that_never_began(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a")
        [task] = await penstock.take()
        await cancel(graph, "cancel_pending")
        await outcome(penstock, "release", task)
        await penstock.reaches(graph.ids["a"], "canceled")


class TestSticky:
    CHANGES: dict[str, dict[str, Any]] = {
        "flow.add_execution": {"members": [{"key": "new", "kind": "k"}], "graph_revision": 0},
        "flow.add_dependency": {"from": "a", "to": "c", "graph_revision": 0},
        "flow.set_join": {"key": "b", "policy": "any_of", "graph_revision": 0},
        "flow.set_waiting": {"wait": {"kind": "manual"}},
        "flow.update_state": {"state_patch": {"a": 1}},
        "flow.start": {},
        "flow.resume": {},
        "flow.finish": {},
        "flow.fail": {"reason": "r"},
        "execution.create": {"kind": "k"},
    }

    @pytest.mark.parametrize("verb", CHANGES)
    async def test_a_cancelled_flow_takes_no_change(self, penstock: RunningPenstock, verb: str) -> None:
        body = self.CHANGES[verb]
        for ask, code in (("flow.request_cancel", "cancel_pending"), ("flow.cancel", "already_terminal")):
            graph = await Graph.of(penstock, "a b c", "a>b")
            await penstock.request(ask, {"flow_id": graph.flow_id})
            before = await graph.get()
            error = await penstock.refused(verb, {"flow_id": graph.flow_id, **body})
            assert error.code == code
            after = await graph.get()
            assert (after["revision"], after["graph_revision"]) == (
                before["revision"],
                before["graph_revision"],
            )

    async def test_what_ends_later_starts_nothing(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c", "a>b")
        assert await graph.take() == {"a", "c"}
        await cancel(graph, "flow_only")
        await graph.complete("a", "c")
        assert await graph.take() == set()
        assert await graph.states() == {"a": "completed", "b": "scheduled", "c": "completed"}

    async def test_an_event_that_comes_later_wakes_nothing(self, penstock: RunningPenstock) -> None:
        graph = await make(penstock, "external_event")
        await cancel(graph)
        other = await Graph.of(penstock, "a")
        body = {"flow_id": other.flow_id, "wait": WAITS["external_event"]}
        await penstock.request("flow.set_waiting", body)
        await penstock.js.publish(
            f"{penstock.root}.event.ci.build",
            msgspec.json.encode({}),
            headers={"Penstock-Correlation-Id": "42"},
        )
        await penstock.until(other.get, lambda flow: flow["status"] == "running", "the event")
        assert (await graph.get())["status"] == "cancelled"


class TestRequested:
    async def test_a_waiting_flow_is_cancelled_when_its_members_have_ended(
        self, penstock: RunningPenstock
    ) -> None:
        """Nothing may wake it, so it must not wait for ever; whether its members end before the request or after."""
        for early in (True, False):
            graph = await Graph.of(penstock, "a")
            await graph.take()
            body = {"flow_id": graph.flow_id}
            await penstock.request("flow.set_waiting", body | {"wait": WAITS["manual"]})
            if early:
                await graph.complete("a")
                assert (await graph.get())["status"] == "waiting"
            reply = await penstock.request("flow.request_cancel", body)
            assert (reply["status"], reply["cancel_requested"]) == ("cancelled" if early else "waiting", True)
            if not early:
                await graph.complete("a")
            assert (await graph.get())["status"] == "cancelled"

    async def test_members_go_on_meanwhile(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b", "a>b")
        await penstock.request("flow.request_cancel", {"flow_id": graph.flow_id})
        for key in "ab":
            assert await graph.take() == {key}
            await graph.complete(key)
        assert (await graph.get())["status"] == "cancelled"
        assert await graph.states() == {"a": "completed", "b": "completed"}


class TestBacklog:
    async def test_a_member_that_cannot_be_stopped_is_tried_again(self, penstock: RunningPenstock) -> None:
        """Its slot cannot be freed, for a while: the others are stopped, and the backlog tells what is wrong."""
        flow = await penstock.request("flow.create", body_of([]))
        home = partition_of(flow["flow_id"])
        key = next(key for key in map(str, count()) if self.home(penstock, key) == home)
        limit = {"concurrency_key": key, "concurrency_limit": 9}
        members = [{"key": each, "kind": "test.step", **limit} for each in "abc"]
        body = {"flow_id": flow["flow_id"], "graph_revision": 0, "members": members}
        graph = Graph(penstock, await penstock.request("flow.add_execution", body))
        await graph.start()
        [grant] = (await penstock.request("work.grant", {"worker_id": "w1", "max": 1}))["items"]
        store = penstock.running["scheduler"].context.machine.store
        slots = f"{penstock.root}:{{{home}}}:slots:c/{home}/9/default.{key}"
        assert await store.execute("ZCARD", slots) == 1
        await store.execute("SET", slots, "no sorted set")
        reply = await cancel(graph, wait=True, wait_ms=1)
        assert reply["result"] == "partially_cancelled"
        assert reply["failed_member_execution_ids"] == [grant["execution_id"]]
        assert of_state(await graph.states(), "canceled") == {"a", "b", "c"} - {
            graph.keys[grant["execution_id"]]
        }
        tries: list[int] = []
        pauses: list[int] = []
        for n in range(1, 4):
            [item] = await penstock.until(
                self.items(penstock), lambda items, n=n: items[0]["tries"] == n, f"try {n}"
            )
            assert (item["execution_id"], item["flow_id"]) == (grant["execution_id"], graph.flow_id)
            assert "WRONGTYPE" in item["last_error"]
            tries.append(item["tries"])
            pauses.append(item["next_at"] - await penstock.clock.now())
            if n < 3:
                penstock.move_clock(pauses[-1])
        assert pauses[0] < pauses[1] < pauses[2]
        await store.execute("DEL", slots)
        penstock.move_clock(60_000)
        await penstock.reaches(grant["execution_id"], "canceled")
        assert await self.items(penstock)() == []
        assert (await cancel(graph, wait=True))["result"] == "cancelled"

    @staticmethod
    def home(penstock: RunningPenstock, key: str) -> int:
        """Return the partition that keeps the limit of a concurrency key."""
        return partition_for(f"default.{key}", penstock.settings.partitions)

    @staticmethod
    def items(penstock: RunningPenstock) -> Any:
        async def look() -> list[dict[str, Any]]:
            return (await penstock.request("cancel.backlog"))["items"]

        return look

    async def test_a_handler_that_dies_leaves_the_members_to_the_due_loop(
        self, penstock: RunningPenstock
    ) -> None:
        """It dies right after the flow was cancelled; one member's record is gone besides."""
        graph = await Graph.of(penstock, " ".join(f"m{n}" for n in range(450)))
        reconciler = penstock.running["cancel-reconciler"].context.machine
        home = partition_of(graph.flow_id)
        await reconciler.store.execute("DEL", f"{penstock.root}:{{{home}}}:x:{graph.ids['m7']}")
        await reconciler.run(
            ops.FlowCancel(flow_id=graph.flow_id, policy="cancel_all", reason="", grace_ms=HOUR_MS)
        )
        [item] = await self.items(penstock)()
        assert (item["flow_id"], item["members"]) == (graph.flow_id, 449)
        penstock.move_clock(1001)
        await penstock.until(self.items(penstock), lambda items: items == [], "an empty backlog")
        assert len((await cancel(graph))["member_execution_ids"]) == 449
        assert (await graph.get())["counts"]["canceled"] == 449
