"""flow.*: graphs of executions that move by themselves; over NATS only."""

import asyncio
from typing import Any

import pytest

from running_penstock import RunningPenstock, fence

NOWHERE = "0-00000000-0000-7000-8000-000000000000"
FLOW_FIELDS = {
    "flow_id", "kind", "namespace", "controller_id", "goal", "owner", "requester_origin", "current_step", "state",
    "wait", "status", "cancel_requested", "revision", "graph_revision", "counts", "created_at", "updated_at",
}  # fmt: skip

Edges = list[str]
Joins = dict[str, dict[str, Any]]


class Graph:
    """A flow under test: members by key, moved by hand. Edges are written `a>b`, or `a>b:data`."""

    def __init__(self, house: RunningPenstock, flow: dict[str, Any]) -> None:
        self.house = house
        self.flow_id: str = flow["flow_id"]
        self.ids: dict[str, str] = flow["members"]
        self.keys = {execution_id: key for key, execution_id in self.ids.items()}
        self.held: dict[str, dict[str, Any]] = {}

    @classmethod
    async def of(
        cls,
        house: RunningPenstock,
        keys: str,
        edges: str = "",
        joins: Joins | None = None,
        *,
        start: bool = True,
        **more: Any,
    ) -> "Graph":
        members = [{"key": key, "kind": "test.step", "input": {}, **more} for key in keys.split()]
        flow = await house.request("flow.create", body_of(members, edges, joins))
        graph = cls(house, flow)
        if start:
            await graph.start()
        return graph

    async def start(self) -> Any:
        return await self.house.request("flow.start", {"flow_id": self.flow_id})

    async def get(self) -> dict[str, Any]:
        return await self.house.request("flow.get", {"flow_id": self.flow_id})

    async def take(self) -> set[str]:
        """Begins all that is ready; their keys."""
        keys: set[str] = set()
        while tasks := await self.house.take(100, start=True, wait_ms=0):
            for task in tasks:
                keys.add(self.keys[task["execution_id"]])
                self.held[self.keys[task["execution_id"]]] = task
        return keys

    async def complete(self, *keys: str, result: Any = None) -> None:
        for key in keys:
            await self.house.request("lease.complete", {**fence(self.held.pop(key)), "result": result})

    async def fail(self, *keys: str) -> None:
        for key in keys:
            await self.house.request("lease.fail", {**fence(self.held.pop(key)), "reason": "no"})

    async def states(self) -> dict[str, str]:
        """State of each member; the outcome of a canceled one."""
        graph = await self.house.request("flow.graph", {"flow_id": self.flow_id})
        return {
            each["key"]: each["outcome"] if each["state"] == "canceled" else each["state"]
            for each in graph["members"]
        }

    async def ends(self, status: str) -> dict[str, Any]:
        return await self.house.until(
            self.get,
            lambda flow: flow["status"] in ("finished", "failed", "cancelled"),
            f"an end as {status}",
        )


def body_of(members: list[dict[str, Any]], edges: str = "", joins: Joins | None = None) -> dict[str, Any]:
    listed: list[dict[str, str]] = []
    for edge in edges.split():
        ends, _, data = edge.partition(":")
        one, _, other = ends.partition(">")
        listed.append({"from": one, "to": other, **({"data": data} if data else {})})
    return {
        "controller_id": "c", "goal": "g", "owner": "o", "members": members, "edges": listed, "joins": joins or {},
    }  # fmt: skip


class TestCreate:
    async def test_the_record(self, penstock: RunningPenstock) -> None:
        body = {
            **body_of([{"key": "a", "kind": "t"}, {"key": "b", "kind": "t"}], "a>b"),
            "requester_origin": "r", "current_step": "s", "state": {"n": [], "m": {}}, "namespace": "billing",
        }  # fmt: skip
        flow = await penstock.request("flow.create", body)
        assert set(flow) >= FLOW_FIELDS
        assert set(flow["members"]) == {"a", "b"}
        for name in (
            "controller_id",
            "goal",
            "owner",
            "requester_origin",
            "current_step",
            "state",
            "namespace",
        ):
            assert flow[name] == body[name]
        assert (flow["kind"], flow["status"], flow["revision"]) == ("managed", "created", 1)
        assert flow["counts"] == {"scheduled": 2}
        again = await penstock.request("flow.get", {"flow_id": flow["flow_id"]})
        assert {name: again[name] for name in FLOW_FIELDS} == {name: flow[name] for name in FLOW_FIELDS}
        member = await penstock.get(flow["members"]["a"])
        assert (member["state"], member["reason"], member["flow_id"]) == (
            "scheduled",
            "dependencies",
            flow["flow_id"],
        )
        assert member["namespace"] == "billing"
        assert await penstock.take(wait_ms=0) == []
        listed = await penstock.request("execution.list", {"flow_id": flow["flow_id"]})
        assert {item["execution_id"] for item in listed["items"]} == set(flow["members"].values())

    async def test_a_members_task_is_like_any_other(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a", priority=3, tags={"x": "y"}, max_attempts=2)
        await graph.take()
        task = graph.held["a"]
        assert (task["tags"], task["input"], task["kind"]) == ({"x": "y"}, {}, "test.step")
        plain = await Graph.of(penstock, "b")
        await plain.take()
        assert plain.held["b"]["tags"] == {}

    @pytest.mark.parametrize(
        ("keys", "edges", "joins", "field"),
        [
            ("a a", "", {}, "members[1].key"),
            ("a", "a>x", {}, "edges[0].to"),
            ("a", "x>a", {}, "edges[0].from"),
            ("a b", "a>b a>b", {}, "edges[1]"),
            ("a b c", "a>c:d b>c:d", {}, "edges[1].data"),
            ("a b", "a>b", {"x": {}}, "joins.x"),
            ("a b", "a>b", {"a": {}}, "joins.a"),
            ("a b", "a>b", {"b": {"policy": "quorum"}}, "joins.b.k"),
            ("a b", "a>b", {"b": {"policy": "any_of", "k": 1}}, "joins.b.k"),
            ("a b", "a>b", {"b": {"policy": "quorum", "k": 2}}, "joins.b.k"),
            ("a b", "a>b", {"b": {"policy": "some"}}, None),
        ],
    )
    async def test_an_unsound_graph(
        self, penstock: RunningPenstock, keys: str, edges: str, joins: Joins, field: str | None
    ) -> None:
        members = [{"key": key, "kind": "t"} for key in keys.split()]
        error = await penstock.refused("flow.create", body_of(members, edges, joins))
        assert error.code == "invalid_request"
        if field is not None:
            assert error.detail == {"field": field}
        assert (await penstock.request("flow.list"))["items"] == []
        assert (await penstock.request("execution.list"))["items"] == []

    async def test_a_flow_without_members_says_so(self, penstock: RunningPenstock) -> None:
        assert (await penstock.request("flow.create", body_of([])))["members"] == {}

    async def test_data_needs_an_object(self, penstock: RunningPenstock) -> None:
        members = [{"key": "a", "kind": "t"}, {"key": "b", "kind": "t", "input": [1]}]
        error = await penstock.refused("flow.create", body_of(members, "a>b:x"))
        assert error.detail == {"field": "edges[0].data"}

    async def test_a_cycle_is_told_with_its_path(self, penstock: RunningPenstock) -> None:
        members = [{"key": key, "kind": "t"} for key in "abcde"]
        error = await penstock.refused("flow.create", body_of(members, "a>b b>c c>d d>b d>e"))
        assert (error.code, error.number) == ("dependency_cycle", 400)
        path = error.detail["path"]
        assert path[0] == path[-1] and set(path) == {"b", "c", "d"}
        order = "bcd" * 2
        assert "".join(path[:-1]) in order
        error = await penstock.refused("flow.create", body_of(members, "e>e"))
        assert error.detail["path"] == ["e", "e"]

    async def test_a_bad_member_makes_no_flow(self, penstock: RunningPenstock) -> None:
        for member, field in (
            ({"key": "b", "kind": "t", "deadline_at": 1}, "members[1].deadline_at"),
            ({"key": "b", "kind": "t", "priority": 1000}, "members[1].priority"),
            ({"key": "b c", "kind": "t"}, "members[1].key"),
            ({"key": "b", "kind": "t", "namespace": "n"}, "members[1].namespace"),
        ):
            error = await penstock.refused("flow.create", body_of([{"key": "a", "kind": "t"}, member]))
            assert error.code == "invalid_request"
            assert error.detail == {"field": field}
        assert (await penstock.request("execution.list"))["items"] == []

    async def test_idempotency(self, penstock: RunningPenstock) -> None:
        body = {**body_of([{"key": "a", "kind": "t"}]), "idempotency_key": "once"}
        first = await penstock.request("flow.create", body)
        again = await penstock.request("flow.create", body)
        assert first["duplicate"] is False and again == {**first, "duplicate": True}
        error = await penstock.refused("flow.create", {**body, "goal": "other"})
        assert error.code == "idempotency_conflict"
        assert len((await penstock.request("flow.list"))["items"]) == 1

    async def test_a_flow_and_its_members_share_a_partition(self, penstock: RunningPenstock) -> None:
        for _ in range(5):
            graph = await Graph.of(penstock, "a b c")
            assert {each.partition("-")[0] for each in graph.ids.values()} == {
                graph.flow_id.partition("-")[0]
            }


class TestStart:
    async def test_roots_begin_and_it_finishes_by_itself(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c", "a>c b>c", start=False)
        flow = await graph.start()
        assert (flow["status"], flow["revision"]) == ("running", 2)
        assert await graph.take() == {"a", "b"}
        await graph.complete("a")
        assert await graph.take() == set()
        await graph.complete("b")
        assert await graph.take() == {"c"}
        await graph.complete("c")
        flow = await graph.get()
        assert (flow["status"], flow["counts"]) == ("finished", {"completed": 3})
        assert flow["revision"] == 3

    async def test_errors(self, penstock: RunningPenstock) -> None:
        error = await penstock.refused("flow.start", {"flow_id": NOWHERE})
        assert (error.code, error.number) == ("flow_not_found", 404)
        graph = await Graph.of(penstock, "a", start=False)
        body = {"flow_id": graph.flow_id}
        error = await penstock.refused("flow.start", {**body, "expected_revision": 7})
        assert (error.code, error.detail) == ("revision_mismatch", {"expected": 7, "actual": 1})
        assert (await graph.get())["status"] == "created"
        await penstock.request("flow.start", {**body, "expected_revision": 1})
        error = await penstock.refused("flow.start", body)
        assert (error.code, error.detail) == ("illegal_transition", {"from": "running", "to": "running"})
        await graph.take()
        await graph.complete("a")
        error = await penstock.refused("flow.start", body)
        assert (error.code, error.detail) == ("already_terminal", {"status": "finished"})
        wanted = await Graph.of(penstock, "a", start=False)
        await penstock.request("flow.request_cancel", {"flow_id": wanted.flow_id})
        assert (await penstock.refused("flow.start", {"flow_id": wanted.flow_id})).code == "cancel_pending"

    async def test_a_member_canceled_before_the_start(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c", "a>b", start=False)
        await penstock.request("execution.cancel", {"execution_id": graph.ids["a"]})
        await graph.start()
        assert (await graph.get())["status"] == "failed"
        assert await graph.states() == {"a": "canceled", "b": "skipped", "c": "skipped"}

    async def test_run_at_of_a_member_counts_from_its_dependencies(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b", "a>b", run_at=4 * 10**12)
        for key in "a", "b":
            record = await penstock.get(graph.ids[key])
            assert record["reason"] == ("time" if key == "a" else "dependencies")


class TestJoins:
    async def test_all_of_fails_with_any_parent(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c d", "a>c b>c")
        assert await graph.take() == {"a", "b", "d"}
        await graph.fail("a")
        flow = await graph.get()
        assert flow["status"] == "failed"
        # What runs may end; what has not begun is skipped.
        assert await graph.states() == {"a": "failed", "b": "running", "c": "skipped", "d": "running"}
        await graph.complete("b", "d")
        assert (await graph.get())["counts"] == {"failed": 1, "completed": 2, "canceled": 1}
        assert (await graph.get())["status"] == "failed"

    async def test_any_of_absorbs_failures(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c d", "a>d b>d c>d", {"d": {"policy": "any_of"}})
        await graph.take()
        await graph.fail("a")
        assert await graph.take() == set()
        await graph.complete("b")
        assert await graph.take() == {"d"}
        await graph.fail("c")
        await graph.complete("d")
        flow = await graph.get()
        assert (flow["status"], flow["counts"]) == ("finished", {"failed": 2, "completed": 2})

    async def test_any_of_without_any(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c", "a>c b>c", {"c": {"policy": "any_of"}})
        await graph.take()
        await graph.fail("a")
        assert (await graph.get())["status"] == "running"
        await graph.fail("b")
        assert (await graph.get())["status"] == "failed"
        assert (await graph.states())["c"] == "skipped"

    async def test_quorum(self, penstock: RunningPenstock) -> None:
        joins: Joins = {"z": {"policy": "quorum", "k": 2}}
        graph = await Graph.of(penstock, "a b c z", "a>z b>z c>z", joins)
        await graph.take()
        await graph.complete("a")
        assert await graph.take() == set()
        await graph.fail("b")
        assert await graph.take() == set()
        await graph.complete("c")
        assert await graph.take() == {"z"}
        await graph.complete("z")
        assert (await graph.get())["status"] == "finished"

    async def test_a_quorum_that_can_no_longer_be(self, penstock: RunningPenstock) -> None:
        joins: Joins = {"z": {"policy": "quorum", "k": 2}}
        graph = await Graph.of(penstock, "a b c z", "a>z b>z c>z", joins)
        await graph.take()
        await graph.fail("a")
        assert (await graph.get())["status"] == "running"
        await graph.fail("c")
        assert (await graph.get())["status"] == "failed"

    async def test_let_run(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b z", "a>z b>z", {"z": {"policy": "any_of"}})
        await graph.take()
        await graph.complete("a")
        await graph.take()
        await graph.complete("z")
        assert (await graph.get())["status"] == "running"
        await graph.complete("b")
        assert (await graph.get())["status"] == "finished"

    async def test_cancel_remaining(self, penstock: RunningPenstock) -> None:
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        joins: Joins = {"z": {"policy": "any_of", "on_satisfied": "cancel_remaining"}}
        graph = await Graph.of(penstock, "a b y z", "a>z b>z y>b", joins)
        assert await graph.take() == {"a", "y"}
        await graph.complete("a")
        assert await graph.take() == {"z"}
        assert await graph.states() == {"a": "completed", "b": "skipped", "y": "running", "z": "running"}
        await graph.complete("y", "z")
        assert (await graph.get())["status"] == "finished"
        running = await Graph.of(penstock, "a b z", "a>z b>z", joins)
        await running.take()
        loser = running.held["b"]
        await running.complete("a")
        assert (await running.states())["b"] == "skipped"
        assert loser["lease_id"].encode() in (await pushed.next_msg(timeout=20)).data
        assert (await penstock.refused("lease.complete", fence(loser))).code == "execution_not_active"

    async def test_skipping_travels_on(self, penstock: RunningPenstock) -> None:
        joins: Joins = {"z": {"policy": "any_of"}}
        graph = await Graph.of(penstock, "a b c d e z", "a>b b>c c>d d>z e>z", joins)
        await penstock.request("execution.cancel", {"execution_id": graph.ids["b"]})
        # Nothing absorbs a canceled member before d, so the flow fails at once.
        assert (await graph.get())["status"] == "failed"
        absorbed = await Graph.of(
            penstock,
            "a s b c d e z",
            "a>b s>b b>c c>d d>z e>z",
            {"b": {"policy": "any_of", "on_satisfied": "cancel_remaining"}, **joins},
        )
        await absorbed.take()
        await absorbed.complete("a")
        assert (await absorbed.states())["s"] == "skipped"
        await absorbed.take()
        await absorbed.complete("b")
        await absorbed.take()
        await absorbed.complete("c", "e")
        assert await absorbed.take() == {"d", "z"}
        await absorbed.complete("d", "z")
        assert (await absorbed.get())["status"] == "finished"

    async def test_a_skipped_branch_is_no_failure(self, penstock: RunningPenstock) -> None:
        """s is skipped by its join; so are those behind it; an any_of behind them goes on without."""
        joins: Joins = {
            "fast": {"policy": "any_of", "on_satisfied": "cancel_remaining"},
            "end": {"policy": "any_of"},
        }
        graph = await Graph.of(
            penstock,
            "q s fast behind more end",
            "q>fast s>fast s>behind behind>more more>end fast>end",
            joins,
        )
        await graph.take()
        await graph.complete("q")
        states = await graph.states()
        assert {key for key, state in states.items() if state == "skipped"} == {"s", "behind", "more"}
        assert await graph.take() == {"fast"}
        await graph.complete("fast")
        assert await graph.take() == {"end"}
        await graph.complete("end")
        assert (await graph.get())["status"] == "finished"

    async def test_a_retry_is_no_failure(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(
            penstock, "a b", "a>b", max_attempts=2, backoff={"kind": "fixed", "delay_ms": 0}
        )
        await graph.take()
        await graph.fail("a")
        assert (await graph.get())["status"] == "running"
        await penstock.reaches(graph.ids["a"], "ready")
        assert await graph.take() == {"a"}
        await graph.complete("a")
        assert await graph.take() == {"b"}

    async def test_a_lost_lease_is_no_failure(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b", "a>b")
        await graph.take()
        penstock.move_clock(60_000)
        await penstock.reaches(graph.ids["a"], "ready")
        assert await graph.take() == {"a"}
        await graph.complete("a")
        assert await graph.take() == {"b"}


class TestData:
    async def test_edges_hand_results_on(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c", "a>c:left b>c:right")
        await graph.take()
        await graph.complete("a", result=2**62)
        await graph.complete("b", result={"z": [], "a": {}})
        await graph.take()
        assert graph.held["c"]["input"] == {"left": 2**62, "right": {"z": [], "a": {}}}
        record = await penstock.get(graph.ids["c"])
        assert record["input"] == {}

    async def test_what_was_not_completed_hands_nothing_on(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c d", "a>d:x b>d:y c>d:z", {"d": {"policy": "any_of"}})
        await graph.take()
        await graph.fail("b")
        await graph.complete("a")
        await graph.take()
        assert graph.held["d"]["input"] == {"x": None}

    async def test_bytes_are_kept(self, penstock: RunningPenstock) -> None:
        members = [
            {"key": "a", "kind": "t"},
            {"key": "b", "kind": "t", "input": {"kept": 1, "x": "overwritten"}},
        ]
        flow = await penstock.request("flow.create", body_of(members, "a>b:x"))
        await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
        task = await penstock.begin()
        proof = ",".join(f'"{name}": {value!r}' for name, value in fence(task).items()).replace("'", '"')
        exact = b'{"z": 18446744073709551616, "a": [1.0, 1e400]}'
        await penstock.ask("lease.complete", b"{" + proof.encode() + b', "result": ' + exact + b"}")
        reply = await penstock.ask("work.next", b'{"worker_id": "w", "wait_ms": 5000}')
        assert b'"input":{"kept":1,"x":' + exact + b"}" in reply.data


class TestWide:
    async def test_a_thousand_children(self, penstock: RunningPenstock) -> None:
        """More than one call does: the due loop goes on in slices, and the fan-in waits for all."""
        children = [f"c{n}" for n in range(1000)]
        edges = " ".join(f"root>{key} {key}>end" for key in children)
        graph = await Graph.of(penstock, f"root end {' '.join(children)}", edges)
        assert await graph.take() == {"root"}
        await graph.complete("root")
        started: set[str] = set()
        async with asyncio.timeout(20):
            while len(started) < 1000:
                keys = await graph.take()
                started |= keys
                await penstock.request("lease.complete", [fence(graph.held.pop(key)) for key in keys])
        assert started == set(children)
        await penstock.reaches(graph.ids["end"], "ready")
        assert await graph.take() == {"end"}
        await graph.complete("end")
        flow = await graph.ends("finished")
        assert (flow["status"], flow["counts"]) == ("finished", {"completed": 1002})

    async def test_a_thousand_roots_of_which_one_suffices(self, penstock: RunningPenstock) -> None:
        roots = [f"r{n}" for n in range(1000)]
        joins: Joins = {"end": {"policy": "any_of", "on_satisfied": "cancel_remaining"}}
        graph = await Graph.of(
            penstock, f"end {' '.join(roots)}", " ".join(f"{key}>end" for key in roots), joins
        )
        task = await penstock.begin()
        await penstock.request("lease.complete", fence(task))

        async def counts() -> dict[str, int]:
            return (await graph.get())["counts"]

        await penstock.until(counts, lambda counts: counts == {"completed": 1, "canceled": 999, "ready": 1})
        assert (await penstock.begin())["execution_id"] == graph.ids["end"]

    async def test_a_failure_sweeps_a_wide_flow(self, penstock: RunningPenstock) -> None:
        keys = [f"k{n}" for n in range(600)]
        graph = await Graph.of(penstock, " ".join(keys))
        task = await penstock.begin()
        await penstock.request("lease.fail", {**fence(task), "reason": "no"})
        assert (await graph.get())["status"] == "failed"

        async def counts() -> dict[str, int]:
            return (await graph.get())["counts"]

        await penstock.until(counts, lambda counts: counts == {"failed": 1, "canceled": 599})
        assert await penstock.take(wait_ms=0) == []


class TestRead:
    async def test_graph(self, penstock: RunningPenstock) -> None:
        joins: Joins = {"c": {"policy": "quorum", "k": 1, "on_satisfied": "cancel_remaining"}}
        graph = await Graph.of(penstock, "a b c", "a>c:x b>c", joins, start=False)
        seen = await penstock.request("flow.graph", {"flow_id": graph.flow_id})
        assert [each["key"] for each in seen["members"]] == ["a", "b", "c"]
        assert {each["key"]: each["execution_id"] for each in seen["members"]} == graph.ids
        assert seen["members"][0] == {
            "key": "a", "execution_id": graph.ids["a"], "kind": "test.step", "state": "scheduled",
            "reason": "dependencies", "outcome": None,
        }  # fmt: skip
        bare = [{name: value for name, value in edge.items() if value} for edge in seen["edges"]]
        assert bare == [{"from": "a", "to": "c", "data": "x"}, {"from": "b", "to": "c"}]
        assert seen["joins"] == {"c": {"policy": "quorum", "k": 1, "on_satisfied": "cancel_remaining"}}
        assert seen["graph_revision"] == (await graph.get())["graph_revision"]

    async def test_lists(self, penstock: RunningPenstock) -> None:
        ids: list[str] = []
        for number in range(7):
            body = {**body_of([{"key": "a", "kind": "t"}]), "owner": f"o{number % 2}"}
            ids.append((await penstock.request("flow.create", body))["flow_id"])
        await penstock.request("flow.start", {"flow_id": ids[2]})

        async def found(**filters: Any) -> list[str]:
            items: list[str] = []
            cursor = None
            while True:
                page = await penstock.request("flow.list", {**filters, "limit": 2, "cursor": cursor})
                items += [flow["flow_id"] for flow in page["items"]]
                cursor = page["cursor"]
                if cursor is None:
                    return items

        assert await found() == ids[::-1]
        assert await found(owner="o1") == ids[1::2][::-1]
        assert await found(status="running") == [ids[2]]
        assert await found(status="running", owner="o0") == [ids[2]]
        assert await found(status="running", owner="o1") == []
        assert (await penstock.refused("flow.list", {"status": "asleep"})).detail == {"field": "status"}

    async def test_what_is_not_there(self, penstock: RunningPenstock) -> None:
        for verb in ("flow.get", "flow.graph", "flow.start"):
            error = await penstock.refused(verb, {"flow_id": NOWHERE})
            assert (error.code, error.detail) == ("flow_not_found", {"flow_id": NOWHERE})
            assert (await penstock.refused(verb, {"flow_id": "x"})).detail == {"field": "flow_id"}

    async def test_retention(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, " ".join(f"k{n}" for n in range(230)))
        while keys := await graph.take():
            await penstock.request("lease.complete", [fence(graph.held.pop(key)) for key in keys])
        await graph.ends("finished")
        penstock.move_clock(8 * 86_400_000)
        await penstock.until(
            lambda: penstock.request("flow.list"), lambda page: page["items"] == [], "its leaving"
        )
        assert (await penstock.request("execution.list"))["items"] == []
