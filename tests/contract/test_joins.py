"""Joins, results that edges pass on, and wide flows."""

import asyncio

from flow_bodies import Graph, Joins, body_of
from running_penstock import WAIT_S, RunningPenstock, fence


class TestJoins:
    async def test_all_of_fails_with_any_parent(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a b c d", "a>c b>c")
        assert await graph.take() == {"a", "b", "d"}
        await graph.fail("a")
        flow = await graph.get()
        assert flow["status"] == "failed"
        # A running member may still end; a member that has not begun is skipped.
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
        assert loser["lease_id"].encode() in (await pushed.next_msg(timeout=WAIT_S)).data
        assert (await penstock.refused("lease.complete", fence(loser))).code == "execution_not_active"

    async def test_skipping_travels_on(self, penstock: RunningPenstock) -> None:
        joins: Joins = {"z": {"policy": "any_of"}}
        graph = await Graph.of(penstock, "a b c d e z", "a>b b>c c>d d>z e>z", joins)
        await penstock.request("execution.cancel", {"execution_id": graph.ids["b"]})
        # No join before d absorbs the canceled member b, so the flow fails at once.
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
        """The join of `fast` skips s, so `behind` and `more` are skipped too; `end` (any_of) goes on without them."""
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
        """One call cannot reach all children: the due loop goes on in slices, and the fan-in waits for all children."""
        children = [f"c{n}" for n in range(1000)]
        edges = " ".join(f"root>{key} {key}>end" for key in children)
        graph = await Graph.of(penstock, f"root end {' '.join(children)}", edges)
        assert await graph.take() == {"root"}
        await graph.complete("root")
        started: set[str] = set()
        async with asyncio.timeout(WAIT_S):
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
