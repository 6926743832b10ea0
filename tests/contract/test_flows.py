"""Flows are created, started and read."""

from typing import Any

import pytest

from flow_bodies import Graph, Joins, body_of
from running_penstock import NOWHERE, RunningPenstock, fence

FLOW_FIELDS = {
    "flow_id", "kind", "namespace", "controller_id", "goal", "owner", "requester_origin", "current_step", "state",
    "wait", "status", "cancel_requested", "revision", "graph_revision", "counts", "created_at", "updated_at",
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
        for verb in ("flow.get", "flow.wait", "flow.graph", "flow.start"):
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
