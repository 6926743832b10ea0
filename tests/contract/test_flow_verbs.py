"""Flows that grow while they run: members, edges and joins that are added later. Also lists of flows."""

import asyncio
from typing import Any

import msgspec
import pytest

from flows_by_verb import change, edge_of, get, make_flow, refused_change
from running_penstock import NOWHERE, RunningPenstock, fence


async def graph(penstock: RunningPenstock, flow: dict[str, Any]) -> dict[str, Any]:
    return await penstock.request("flow.graph", {"flow_id": flow["flow_id"]})


async def work_off(penstock: RunningPenstock, outcome: str = "lease.complete", **fields: Any) -> str:
    """Take one task and end it with this outcome verb. Return its execution's id."""
    task = await penstock.begin()
    await penstock.request(outcome, {**fence(task), **fields})
    return task["execution_id"]


async def ends(penstock: RunningPenstock, flow: dict[str, Any], status: str) -> dict[str, Any]:
    return await penstock.until(
        lambda: get(penstock, flow), lambda seen: seen["status"] == status, f"status {status}"
    )


class TestAddExecution:
    async def test_to_a_flow_that_has_not_begun(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a", start=False)
        after = await change(
            penstock, "flow.add_execution", flow, members=[{"key": "b", "kind": "k"}], edges=[edge_of("a>b")]
        )
        assert set(after["members"]) == {"b"} and after["counts"] == {"scheduled": 2}
        assert (after["revision"], after["graph_revision"]) == (2, 1)
        seen = await graph(penstock, flow)
        assert [member["key"] for member in seen["members"]] == ["a", "b"]
        assert seen["edges"] == [edge_of("a>b")]
        await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
        assert await work_off(penstock) == flow["members"]["a"]
        assert await work_off(penstock) == after["members"]["b"]
        await ends(penstock, flow, "finished")

    async def test_to_a_running_one_a_root_begins_at_once(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock)
        after = await change(penstock, "flow.add_execution", flow, members=[{"key": "a", "kind": "k"}])
        assert await work_off(penstock) == after["members"]["a"]
        await ends(penstock, flow, "finished")

    async def test_an_edge_from_a_member_that_has_ended_counts_at_once(
        self, penstock: RunningPenstock
    ) -> None:
        flow = await make_flow(penstock, "a b")
        ended = await work_off(penstock, result={"x": 1})
        key = next(key for key, each in flow["members"].items() if each == ended)
        after = await change(
            penstock,
            "flow.add_execution",
            flow,
            members=[{"key": "c", "kind": "k"}, {"key": "d", "kind": "k"}],
            edges=[{"from": key, "to": "c", "data": "from_a"}, edge_of("c>d")],
        )
        assert (await penstock.get(after["members"]["c"]))["state"] == "ready"
        assert (await penstock.get(after["members"]["d"]))["reason"] == "dependencies"
        order = [await penstock.begin() for _ in range(2)]
        task = next(each for each in order if each["execution_id"] == after["members"]["c"])
        assert task["input"] == {"from_a": {"x": 1}}
        for each in order:
            await penstock.request("lease.complete", fence(each))
        assert await work_off(penstock) == after["members"]["d"]
        await ends(penstock, flow, "finished")

    async def test_a_late_edge_counts_once(self, penstock: RunningPenstock) -> None:
        """Only one of the new child's two parents has ended: the child waits for the other."""
        flow = await make_flow(penstock, "a b c", "a>c b>c")
        first = await work_off(penstock)
        key = next(key for key, each in flow["members"].items() if each == first)
        after = await change(
            penstock, "flow.add_execution", flow,
            members=[{"key": "d", "kind": "k"}], edges=[edge_of(f"{key}>d"), edge_of("c>d")],
        )  # fmt: skip
        assert (await penstock.get(after["members"]["d"]))["state"] == "scheduled"
        assert (await penstock.get(flow["members"]["c"]))["state"] == "scheduled"
        await work_off(penstock)
        assert await work_off(penstock) == flow["members"]["c"]
        assert await work_off(penstock) == after["members"]["d"]
        await ends(penstock, flow, "finished")

    async def test_while_a_wide_ending_is_still_being_told(self, penstock: RunningPenstock) -> None:
        """An ending reaches 400 children in several calls; an edge added meanwhile is told once, like the others."""
        children = [f"m{n}" for n in range(400)]
        flow = await make_flow(
            penstock, f"a b {' '.join(children)}", " ".join(f"a>{key}" for key in children)
        )
        tasks = {task["execution_id"]: task for task in await penstock.take(2, start=True)}
        await penstock.request("lease.complete", fence(tasks[flow["members"]["a"]]))
        after = await change(
            penstock, "flow.add_execution", flow,
            members=[{"key": "z", "kind": "k"}], edges=[edge_of("a>z"), edge_of("b>z")],
        )  # fmt: skip
        await penstock.until(
            lambda: get(penstock, flow), lambda seen: seen["counts"].get("ready") == 400, "400 ready children"
        )
        assert (await penstock.get(after["members"]["z"]))["state"] == "scheduled"
        await penstock.request("lease.complete", fence(tasks[flow["members"]["b"]]))
        await penstock.reaches(after["members"]["z"], "ready")

    async def test_joins(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b")
        await change(
            penstock, "flow.add_execution", flow,
            members=[{"key": "c", "kind": "k"}], edges=[edge_of("a>c"), edge_of("b>c")],
            joins={"c": {"policy": "any_of", "on_satisfied": "cancel_remaining"}},
        )  # fmt: skip
        seen = await graph(penstock, flow)
        assert seen["joins"]["c"]["policy"] == "any_of"
        await work_off(penstock)
        rest = await penstock.until(
            lambda: graph(penstock, flow),
            lambda seen: any(member["outcome"] == "skipped" for member in seen["members"]),
        )
        assert {member["key"]: member["state"] for member in rest["members"]}["c"] == "ready"

    async def test_behind_an_absorbed_failure_the_flow_fails(self, penstock: RunningPenstock) -> None:
        """An edge that is added late counts as if it had been there from the start."""
        flow = await make_flow(penstock, "a b c", "a>c b>c", joins={"c": {"policy": "any_of"}})
        failed = await work_off(penstock, "lease.fail", reason="r", retryable=False)
        key = next(key for key, each in flow["members"].items() if each == failed)
        assert (await get(penstock, flow))["status"] == "running"
        after = await change(
            penstock, "flow.add_execution", flow,
            members=[{"key": "d", "kind": "k"}], edges=[edge_of(f"{key}>d")],
        )  # fmt: skip
        assert after["status"] == "failed"
        assert (await penstock.get(after["members"]["d"]))["outcome"] == "skipped"

    async def test_a_graph_that_moved(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a")
        members = [{"key": "b", "kind": "k"}]
        await change(penstock, "flow.add_execution", flow, members=members)
        body = {"flow_id": flow["flow_id"], "graph_revision": 0, "members": [{"key": "c", "kind": "k"}]}
        error = await penstock.refused("flow.add_execution", body)
        assert (error.code, error.detail) == ("stale_graph_revision", {"expected": 0, "actual": 1})
        assert error.retryable

    async def test_idempotency(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a")
        body = {
            "flow_id": flow["flow_id"],
            "graph_revision": 0,
            "members": [{"key": "b", "kind": "k"}],
            "idempotency_key": "once",
        }
        first = await penstock.request("flow.add_execution", body)
        assert first["duplicate"] is False
        again = await penstock.request("flow.add_execution", body)
        assert again == first | {"duplicate": True}
        body["members"] = [{"key": "c", "kind": "k"}]
        assert (await penstock.refused("flow.add_execution", body)).code == "idempotency_conflict"

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"members": []}, "members"),
            ({"members": [{"key": "a", "kind": "k"}]}, "members[0].key"),
            ({"members": [{"key": "x", "kind": "k"}, {"key": "x", "kind": "k"}]}, "members[1].key"),
            ({"members": [{"key": "x", "kind": "k"}], "edges": [edge_of("y>x")]}, "edges[0].from"),
            ({"members": [{"key": "x", "kind": "k"}], "edges": [edge_of("x>a")]}, "edges[0].to"),
            ({"members": [{"key": "x", "kind": "k"}], "joins": {"x": {}}}, "joins.x"),
            ({"members": [{"key": "x", "kind": "k", "deadline_at": 1}]}, "members[0].deadline_at"),
        ],
    )
    async def test_what_makes_no_sense(
        self, penstock: RunningPenstock, fields: dict[str, Any], field: str
    ) -> None:
        flow = await make_flow(penstock, "a")
        error = await refused_change(penstock, "flow.add_execution", flow, **fields)
        assert (error.code, error.detail["field"]) == ("invalid_request", field)
        assert (await get(penstock, flow))["graph_revision"] == 0

    async def test_a_cycle_among_the_new_ones(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a")
        members = [{"key": "x", "kind": "k"}, {"key": "y", "kind": "k"}]
        edges = [edge_of(each) for each in ("a>x", "x>y", "y>x")]
        error = await refused_change(penstock, "flow.add_execution", flow, members=members, edges=edges)
        assert error.code == "dependency_cycle" and set(error.detail["path"]) == {"x", "y"}

    async def test_many_roots_at_once(self, penstock: RunningPenstock) -> None:
        """One call cannot make so many members ready: the due loop does the rest, and every member begins."""
        flow = await make_flow(penstock, "a")
        members = [{"key": f"m{n}", "kind": "k"} for n in range(400)]
        await change(penstock, "flow.add_execution", flow, members=members)
        seen = await penstock.until(
            lambda: get(penstock, flow), lambda seen: seen["counts"].get("ready") == 401, "401 ready members"
        )
        assert seen["status"] == "running"


class TestCreateIntoAFlow:
    """execution.create with a flow_id adds a member without the caller knowing the flow's graph."""

    async def test_it_is_a_member_like_the_others(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a", namespace="n")
        body = {"kind": "k", "flow_id": flow["flow_id"], "namespace": "n", "lane": "l", "input": {"n": 1}}
        made = await penstock.request("execution.create", body)
        assert made["state"] == "ready"
        record = await penstock.get(made["execution_id"])
        assert (record["flow_id"], record["namespace"], record["lane"]) == (flow["flow_id"], "n", "l")
        after = await get(penstock, flow)
        assert (after["revision"], after["graph_revision"], after["counts"]) == (3, 1, {"ready": 2})
        keys = [member["key"] for member in (await graph(penstock, flow))["members"]]
        assert keys == ["a", made["execution_id"]]
        # The flow does not finish before this member has ended.
        await work_off(penstock)
        assert (await get(penstock, flow))["status"] == "running"
        task = await penstock.begin(lanes=["l"])
        assert task["input"] == {"n": 1}
        await penstock.request("lease.complete", fence(task))
        await ends(penstock, flow, "finished")

    async def test_it_waits_for_the_start_and_others_may_wait_for_it(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a", start=False)
        execution_id = await penstock.create(flow_id=flow["flow_id"])
        record = await penstock.get(execution_id)
        assert (record["state"], record["reason"]) == ("scheduled", "dependencies")
        await change(penstock, "flow.add_dependency", flow, **{"from": execution_id, "to": "a"})
        await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
        assert await work_off(penstock) == execution_id
        assert await work_off(penstock) == flow["members"]["a"]
        await ends(penstock, flow, "finished")

    async def test_idempotency(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a")
        for n in range(3):  # the keys are stored in different partitions
            body = {"kind": "k", "flow_id": flow["flow_id"], "idempotency_key": f"k{n}"}
            first = await penstock.request("execution.create", body)
            again = await penstock.request("execution.create", body)
            assert again == {**first, "duplicate": True}
            error = await penstock.refused("execution.create", {**body, "priority": 1})
            assert error.code == "idempotency_conflict"
        assert (await get(penstock, flow))["counts"] == {"ready": 4}

    async def test_refusals(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a")
        body = {"kind": "k", "flow_id": flow["flow_id"]}
        mirrored = await penstock.request(
            "flow.create_mirrored", {"controller_id": "c", "goal": "g", "owner": "o"}
        )
        for change_, field in (
            ({"flow_id": mirrored["flow_id"]}, "flow_id"),
            ({"parent_id": flow["members"]["a"]}, "parent_id"),
            ({"namespace": "other"}, "namespace"),
            ({"deadline_at": 1}, "deadline_at"),
        ):
            error = await penstock.refused("execution.create", {**body, **change_})
            assert (error.code, error.detail) == ("invalid_request", {"field": field})
        error = await penstock.refused("execution.create", {**body, "flow_id": NOWHERE})
        assert error.code == "flow_not_found"
        assert await get(penstock, flow) == await get(penstock, flow) | {"revision": 2, "graph_revision": 0}
        await penstock.request("flow.request_cancel", {"flow_id": flow["flow_id"]})
        assert (await penstock.refused("execution.create", body)).code == "cancel_pending"
        ended = await make_flow(penstock)
        await penstock.request("flow.finish", {"flow_id": ended["flow_id"]})
        error = await penstock.refused("execution.create", {**body, "flow_id": ended["flow_id"]})
        assert error.code == "already_terminal"


class TestAddDependency:
    async def test_a_member_waits_for_one_more(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b c", "a>c", start=False)
        after = await change(penstock, "flow.add_dependency", flow, **edge_of("b>c"))
        assert (after["graph_revision"], after["revision"]) == (1, 2)
        await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
        await work_off(penstock)
        assert (await penstock.get(flow["members"]["c"]))["state"] == "scheduled"
        await work_off(penstock)
        assert await work_off(penstock) == flow["members"]["c"]
        await ends(penstock, flow, "finished")

    async def test_a_root_waits_from_now_on(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b", start=False)
        await change(penstock, "flow.add_dependency", flow, **edge_of("a>b"))
        await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
        assert (await penstock.get(flow["members"]["b"]))["reason"] == "dependencies"

    async def test_from_one_that_has_ended(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b c", "b>c")
        ended = await work_off(penstock)
        key = next(key for key, each in flow["members"].items() if each == ended)
        if key == "a":
            await change(penstock, "flow.add_dependency", flow, **edge_of("a>c"))
            assert (await penstock.get(flow["members"]["c"]))["state"] == "scheduled"
            assert await work_off(penstock) == flow["members"]["b"]
        else:
            error = await refused_change(penstock, "flow.add_dependency", flow, **edge_of("a>c"))
            assert error.code == "execution_not_eligible"

    async def test_a_cycle_is_named(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b c d", "a>b b>c c>d", start=False)
        error = await refused_change(penstock, "flow.add_dependency", flow, **edge_of("d>b"))
        assert error.code == "dependency_cycle" and error.detail["path"] == ["d", "b", "c", "d"]
        error = await refused_change(penstock, "flow.add_dependency", flow, **edge_of("a>a"))
        assert error.detail["path"] == ["a", "a"]

    async def test_a_cycle_that_two_make_together_is_never_made(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b", start=False)
        bodies = [{"flow_id": flow["flow_id"], "graph_revision": 0, **edge_of(e)} for e in ("a>b", "b>a")]
        replies = await asyncio.gather(
            *(penstock.ask("flow.add_dependency", msgspec.json.encode(body)) for body in bodies)
        )
        codes = [msgspec.json.decode(reply.data).get("error", {}).get("code") for reply in replies]
        assert sorted(codes, key=str) in ([None, "stale_graph_revision"], [None, "dependency_cycle"])

    async def test_one_that_has_begun_waits_for_nobody(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b")
        error = await refused_change(penstock, "flow.add_dependency", flow, **edge_of("a>b"))
        assert error.code == "execution_not_eligible" and error.detail["state"] == "ready"

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"from": "x", "to": "b"}, "from"),
            ({"from": "a", "to": "x"}, "to"),
            ({"from": "a", "to": "b"}, "from"),
            ({"from": "c", "to": "b", "data": "k"}, "data"),
            ({"from": "a", "to": "d", "data": "k"}, "data"),
        ],
    )
    async def test_what_makes_no_sense(
        self, penstock: RunningPenstock, fields: dict[str, str], field: str
    ) -> None:
        flow = await make_flow(
            penstock, start=False,
            members=[*({"key": key, "kind": "k"} for key in "abc"), {"key": "d", "kind": "k", "input": [1]}],
        )  # fmt: skip
        await change(penstock, "flow.add_dependency", flow, **edge_of("a>b"), data="k")
        error = await refused_change(penstock, "flow.add_dependency", flow, **fields)
        assert (error.code, error.detail["field"]) == ("invalid_request", field)


class TestSetJoin:
    async def test_what_has_ended_counts_at_once(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b c", "a>c b>c")
        await work_off(penstock)
        after = await change(penstock, "flow.set_join", flow, key="c", policy="any_of")
        assert after["graph_revision"] == 1
        assert (await penstock.get(flow["members"]["c"]))["state"] == "ready"
        assert (await graph(penstock, flow))["joins"] == {
            "c": {"policy": "any_of", "on_satisfied": "let_run"}
        }

    async def test_a_quorum(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b c d", "a>d b>d c>d", start=False)
        fields = {"key": "d", "policy": "quorum", "k": 2, "on_satisfied": "cancel_remaining"}
        await change(penstock, "flow.set_join", flow, **fields)
        await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
        await work_off(penstock)
        await work_off(penstock)
        assert await work_off(penstock) == flow["members"]["d"]
        assert (await ends(penstock, flow, "finished"))["counts"] == {"completed": 3, "canceled": 1}

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"key": "c", "policy": "quorum"}, "k"),
            ({"key": "c", "policy": "any_of", "k": 1}, "k"),
            ({"key": "c", "policy": "quorum", "k": 3}, "k"),
            ({"key": "a", "policy": "any_of"}, "key"),
            ({"key": "x", "policy": "any_of"}, "key"),
        ],
    )
    async def test_what_makes_no_sense(
        self, penstock: RunningPenstock, fields: dict[str, Any], field: str
    ) -> None:
        flow = await make_flow(penstock, "a b c", "a>c b>c", start=False)
        error = await refused_change(penstock, "flow.set_join", flow, **fields)
        assert (error.code, error.detail["field"]) == ("invalid_request", field)

    async def test_one_that_has_begun(self, penstock: RunningPenstock) -> None:
        flow = await make_flow(penstock, "a b", "a>b")
        await work_off(penstock)
        error = await refused_change(penstock, "flow.set_join", flow, key="b", policy="any_of")
        assert error.code == "execution_not_eligible"


async def test_a_list_by_owner_and_status(penstock: RunningPenstock) -> None:
    ids: dict[str, list[str]] = {"created": [], "running": []}
    for n in range(6):
        owner = "me" if n % 3 else "you"
        flow = await make_flow(penstock, start=n % 2 == 0, owner=owner)
        if owner == "me":
            ids["running" if n % 2 == 0 else "created"].append(flow["flow_id"])
    for status, mine in ids.items():
        page = await penstock.request("flow.list", {"owner": "me", "status": status, "limit": 1})
        found = list(page["items"])
        while page["cursor"] is not None:
            body = {"owner": "me", "status": status, "limit": 1, "cursor": page["cursor"]}
            page = await penstock.request("flow.list", body)
            found += page["items"]
        assert [flow["flow_id"] for flow in found] == mine[::-1]
    everything = await penstock.request("flow.list", {"owner": "me"})
    assert {flow["flow_id"] for flow in everything["items"]} == {*ids["created"], *ids["running"]}


async def test_the_sdk(penstock: RunningPenstock) -> None:
    client = await penstock.client()
    flow = await client.flows.create("g", members=[], state={"a": 1})
    await flow.start()
    after = await flow.update_state({"b": [2**63]}, next_step="second")
    assert (after.state, after.current_step) == ({"a": 1, "b": [2**63]}, "second")
    assert (await flow.update_state(next_step="third")).raw_state == after.raw_state
    failed = await flow.fail("no more")
    assert failed.state["failure"]["reason"] == "no more"
    other = await client.flows.create("g", members=[])
    await other.start()
    assert (await other.finish()).status == "finished"
