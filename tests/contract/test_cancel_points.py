"""An execution is canceled at every point of its life: it ends at once, and nothing of it is left behind."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from flow_bodies import Graph, Joins
from lifecycles import HOUR_MS, last, now, outcome, running
from running_penstock import RunningPenstock, fence

Point = Callable[[RunningPenstock], Awaitable[str]]
POINTS: dict[str, Point] = {}
"""By name: what brings a new execution to a point of its life, and returns its id."""
BUDGET = {"dimensions": {"tokens": {"hard": 10}}}
LIMIT = {"concurrency_key": "c", "concurrency_limit": 1}
HOLDERS = ("q:", "due:", "slots:", "window:", "ch:", "budget-held:", "budget-breaches:", "uq:")
"""Prefixes of the keys that make something happen to an execution later, or hold something for it."""


def point(make: Point) -> Point:
    POINTS[make.__name__] = make
    return make


@point
async def scheduled(penstock: RunningPenstock) -> str:
    return await penstock.create(run_at=await now(penstock) + HOUR_MS)


@point
async def scheduled_behind_its_unique_key(penstock: RunningPenstock) -> str:
    unique = {"unique_key": "k", "on_conflict": "replace"}
    await running(penstock, **unique)
    return await penstock.create(**unique)


@point
async def ready(penstock: RunningPenstock) -> str:
    return await penstock.create(unique_key="k", capabilities=["gpu"], fairness_key="f")


@point
async def ready_but_blocked(penstock: RunningPenstock) -> str:
    await running(penstock, **LIMIT)
    execution_id = await penstock.create(**LIMIT)
    assert await penstock.take(wait_ms=0) == []
    await penstock.until(
        lambda: penstock.get(execution_id), lambda record: record["reason"] == "quota", "the block"
    )
    return execution_id


@point
async def granted(penstock: RunningPenstock) -> str:
    execution_id = await penstock.create(**LIMIT)
    assert (await penstock.request("work.grant", {"worker_id": "w1"}))["items"]
    return execution_id


@point
async def leased(penstock: RunningPenstock) -> str:
    quota = await penstock.request("quota.create", {"max_per_window": 1, "window_ms": HOUR_MS})
    await penstock.create(quota_id=quota["quota_id"], **LIMIT)
    [task] = await penstock.take(lease_ttl_ms=HOUR_MS)
    return task["execution_id"]


@point
async def begun(penstock: RunningPenstock) -> str:
    task = await running(
        penstock, attempt_timeout_ms=HOUR_MS, deadline_at=await now(penstock) + HOUR_MS, **LIMIT
    )
    await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "early"})
    return task["execution_id"]


@point
async def waiting_for_a_retry(penstock: RunningPenstock) -> str:
    task = await running(penstock, max_attempts=2, backoff={"delay_ms": HOUR_MS}, **LIMIT)
    assert (await outcome(penstock, "fail", task, reason="r"))["outcome"] == "retry_scheduled"
    return task["execution_id"]


@point
async def suspended_for_a_signal(penstock: RunningPenstock) -> str:
    task = await running(penstock, **LIMIT)
    await outcome(penstock, "suspend", task, condition={"name": "approved"}, timeout_ms=HOUR_MS)
    return task["execution_id"]


@point
async def suspended_for_a_time(penstock: RunningPenstock) -> str:
    task = await running(penstock)
    await outcome(penstock, "delay", task, until=await now(penstock) + HOUR_MS)
    return task["execution_id"]


@point
async def suspended_for_its_children(penstock: RunningPenstock) -> str:
    task = await running(penstock)
    await penstock.create(parent_id=task["execution_id"], lane="children")
    await outcome(penstock, "await_children", task)
    return task["execution_id"]


@point
async def suspended_by_a_budget(penstock: RunningPenstock) -> str:
    budget_id = (await penstock.request("budget.create", BUDGET))["budget_id"]
    task = await running(penstock, budget_ids=[budget_id])
    report = {"budget_id": budget_id, "dimensions": {"tokens": 11}}
    assert (await outcome(penstock, "usage", task, **report))["state"] == "suspended"
    return task["execution_id"]


@point
async def suspended_by_an_operator(penstock: RunningPenstock) -> str:
    task = await running(penstock)
    await penstock.request("execution.suspend", {"execution_id": task["execution_id"]})
    return task["execution_id"]


async def holders(penstock: RunningPenstock, execution_id: str) -> set[str]:
    """Return the queues, due sets, slots, keys and lists of budgets that still have this execution."""
    store = penstock.running["scheduler"].context.machine.store
    found: set[str] = set()
    for key in await penstock.keys():
        name = key.partition("}:")[2]
        if name.startswith("uq:"):
            members = [await store.execute("GET", key)]
        elif name.startswith(HOLDERS):
            members = await store.execute("ZRANGE", key, "0", "-1")
        else:
            continue
        if any(execution_id.encode() in member for member in members):
            found.add(name)
    return found


async def let_go(penstock: RunningPenstock, execution_id: str, kept: set[str]) -> None:
    """Wait until only the holders in `kept` have the execution. (Those in other partitions hear of it by a hint.)"""
    await penstock.until(lambda: holders(penstock, execution_id), lambda found: found == kept, "letting go")


async def cancel(penstock: RunningPenstock, execution_id: str, grace_ms: int = 0) -> str:
    body = {"execution_id": execution_id, "reason": "enough", "grace_ms": grace_ms}
    return (await penstock.request("execution.cancel", body))["state"]


@pytest.mark.parametrize("point", POINTS)
async def test_it_ends_and_lets_go_of_everything(penstock: RunningPenstock, point: str) -> None:
    execution_id = await POINTS[point](penstock)
    held = point not in ("suspended_for_its_children", "suspended_by_an_operator")
    assert bool(await holders(penstock, execution_id)) == held
    for _ in range(2):  # the second time changes nothing
        assert await cancel(penstock, execution_id) == "canceled"
    record = await penstock.get(execution_id)
    assert (record["state"], record["outcome"], record["reason"]) == ("canceled", "canceled", None)
    assert record["finished_at"] and record["lease"] is None
    event = await last(penstock, execution_id)
    assert (event["event"], event["reason"]) == ("canceled", "enough")
    page = await penstock.request("waitpoint.list", {"execution_id": execution_id})
    assert {item["status"] for item in page["items"]} <= {"closed"}
    assert (await penstock.request("cancel.backlog"))["items"] == []
    await let_go(penstock, execution_id, {"due:scheduler:x"})  # its retention
    # What it held is there for others, and what it waited for does not wake it any more.
    penstock.move_clock(2 * HOUR_MS)
    assert (await penstock.get(execution_id))["state"] == "canceled"
    if point in ("ready", "granted", "leased", "begun", "waiting_for_a_retry", "suspended_for_a_signal"):
        again = await penstock.create(unique_key="k", **LIMIT)
        assert (await penstock.begin())["execution_id"] == again


async def test_a_place_in_a_quotas_window_comes_back_unless_it_began(penstock: RunningPenstock) -> None:
    quota = await penstock.request("quota.create", {"max_per_window": 1, "window_ms": HOUR_MS})
    for began in (False, True):
        execution_id = await penstock.create(quota_id=quota["quota_id"])
        await penstock.take(start=began)
        await cancel(penstock, execution_id)
    await penstock.create(quota_id=quota["quota_id"])
    error = await penstock.refused("work.grant", {"worker_id": "w1"})
    assert error.code == "rate_limit_exceeded"


async def test_the_token_of_a_canceled_one_is_dead(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    early = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "early"})
    waits = await outcome(penstock, "suspend", task, condition={"name": "approved"})
    await cancel(penstock, task["execution_id"])
    for token in (early["token"], waits["token"]):
        reply = await penstock.request("signal.deliver", {"token": token, "name": "approved"})
        assert reply["effect"] == "ignored"
    body = {"execution_id": task["execution_id"], "name": "approved"}
    assert (await penstock.refused("signal.send", body)).code == "waitpoint_not_found"
    assert await penstock.take(wait_ms=0) == []


async def test_a_budget_counts_only_those_that_it_still_holds(penstock: RunningPenstock) -> None:
    """Whether it is canceled or an operator lets it go on: the budget holds it no longer, wherever the two live."""
    budget_id = (await penstock.request("budget.create", BUDGET))["budget_id"]
    ids: list[str] = []
    for _ in range(8):
        ids.append(await penstock.create(budget_ids=[budget_id]))
    for task in await penstock.take(8, start=True):
        await outcome(penstock, "usage", task, budget_id=budget_id, dimensions={"tokens": 11})

    async def suspended() -> int:
        return (await penstock.request("budget.get", {"budget_id": budget_id}))["suspended"]

    assert await suspended() == 8
    for execution_id in ids[:4]:
        await cancel(penstock, execution_id)
    for execution_id in ids[4:6]:
        await penstock.request("execution.resume", {"execution_id": execution_id})
    await penstock.until(suspended, lambda n: n == 2, "two that are still held")
    await penstock.request("budget.reset", {"budget_id": budget_id})
    for execution_id in ids[6:]:
        await penstock.reaches(execution_id, "ready")


async def test_the_children_of_one_that_waits_for_them_end_too(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    parent = {"parent_id": task["execution_id"], "lane": "children"}
    held = await running(penstock, parent_id=task["execution_id"])
    ready = await penstock.create(**parent)
    later = await penstock.create(**parent, run_at=await now(penstock) + HOUR_MS)
    free = await penstock.create(**parent, parent_close="let_run")
    await outcome(penstock, "await_children", task)
    await cancel(penstock, task["execution_id"])
    for execution_id in (ready, later):
        await penstock.reaches(execution_id, "canceled")
        event = await last(penstock, execution_id)
        assert (event["reason"], event["actor"]) == ("parent_canceled", f"execution:{task['execution_id']}")
    await penstock.until(
        lambda: penstock.get(held["execution_id"]), lambda record: record["cancel_requested"], "the request"
    )
    assert await outcome(penstock, "complete", held) == {"state": "canceled"}
    assert (await penstock.get(free))["state"] == "ready"
    await let_go(penstock, task["execution_id"], {"due:scheduler:x"})


@pytest.mark.parametrize("ending", ["failed", "canceled", "completed"])
async def test_a_parent_that_has_ended_takes_no_children(penstock: RunningPenstock, ending: str) -> None:
    task = await running(penstock)
    parent = {"parent_id": task["execution_id"], "lane": "children"}
    match ending:
        case "failed":
            await outcome(penstock, "fail", task, reason="r")
        case "canceled":
            await cancel(penstock, task["execution_id"])
        case _:
            await outcome(penstock, "complete", task)
    free = await penstock.create(**parent, parent_close="let_run")
    if ending == "completed":
        await penstock.create(**parent)
    else:
        error = await penstock.refused("execution.create", {"kind": "test.job", **parent})
        assert (error.code, error.detail["state"]) == ("execution_not_eligible", ending)
    assert (await penstock.get(free))["state"] == "ready"


class TestWithinTheGrace:
    """A worker that holds the execution was asked to stop. However its attempt ends, the outcome is canceled."""

    @pytest.mark.parametrize(
        ("verb", "more"),
        [
            ("complete", {"result": 1}),
            ("complete", {"children": [{"kind": "test.child"}]}),
            ("fail", {"reason": "r"}),
            ("cancel", {}),
            ("delay", {"until": 4 * 10**12}),
            ("await_children", {}),
            ("suspend", {"condition": {"name": "approved"}}),
        ],
        ids=lambda each: each if isinstance(each, str) else "-".join(each),
    )
    async def test_what_its_worker_reports(
        self, penstock: RunningPenstock, verb: str, more: dict[str, Any]
    ) -> None:
        task = await running(penstock, max_attempts=3, **LIMIT)
        assert await cancel(penstock, task["execution_id"], grace_ms=HOUR_MS) == "running"
        first = await outcome(penstock, verb, task, **more)
        assert await outcome(penstock, verb, task, **more) == first  # a repeat
        await self.is_canceled(penstock, task["execution_id"])

    async def test_what_its_worker_gives_back(self, penstock: RunningPenstock) -> None:
        await penstock.create(**LIMIT)
        [task] = await penstock.take()
        assert await cancel(penstock, task["execution_id"], grace_ms=HOUR_MS) == "leased"
        assert await outcome(penstock, "release", task) == {"state": "canceled"}
        await self.is_canceled(penstock, task["execution_id"])

    @pytest.mark.parametrize(
        "spec",
        [{"lease": 1000}, {"attempt_timeout_ms": 1000}, {"deadline": 1000}, {"grace": 1000}],
        ids=lambda spec: next(iter(spec)),
    )
    async def test_what_time_brings(self, penstock: RunningPenstock, spec: dict[str, int]) -> None:
        """Its lease, its attempt's time, its deadline or the grace runs out, whichever is first."""
        spec = dict(spec)
        lease_ms, deadline_ms = spec.pop("lease", HOUR_MS), spec.pop("deadline", HOUR_MS)
        grace_ms = spec.pop("grace", HOUR_MS)
        execution_id = await penstock.create(
            max_attempts=3, deadline_at=await now(penstock) + deadline_ms, **spec, **LIMIT
        )
        await penstock.begin(lease_ttl_ms=lease_ms)
        assert await cancel(penstock, execution_id, grace_ms) == "running"
        penstock.move_clock(1001)
        await penstock.reaches(execution_id, "canceled", "failed", "ready", "retry_wait")
        await self.is_canceled(penstock, execution_id)

    async def test_a_budget_that_is_passed(self, penstock: RunningPenstock) -> None:
        for on_hard in ("suspend", "fail"):
            budget = await penstock.request("budget.create", {**BUDGET, "on_hard": on_hard})
            task = await running(penstock, budget_ids=[budget["budget_id"]])
            await cancel(penstock, task["execution_id"], grace_ms=HOUR_MS)
            report = {"budget_id": budget["budget_id"], "dimensions": {"tokens": 11}}
            assert (await outcome(penstock, "usage", task, **report))["state"] == "canceled"
            await self.is_canceled(penstock, task["execution_id"])

    @staticmethod
    async def is_canceled(penstock: RunningPenstock, execution_id: str) -> None:
        record = await penstock.get(execution_id)
        assert (record["state"], record["outcome"], record["lease"]) == ("canceled", "canceled", None)
        assert (await last(penstock, execution_id))["reason"] == "enough"
        await let_go(penstock, execution_id, {"due:scheduler:x"})
        assert (await penstock.request("execution.list", {"kind": "test.child"}))["items"] == []


class TestMembers:
    """`z` waits for a, b and c. Its end as canceled is absorbed by `end`, which needs z or x."""

    JOINS: dict[str, dict[str, Any]] = {
        "all_of": {"policy": "all_of"},
        "any_of": {"policy": "any_of"},
        "quorum": {"policy": "quorum", "k": 2},
    }

    @pytest.mark.parametrize("before", [False, True], ids=["no parent has ended", "one parent has ended"])
    @pytest.mark.parametrize("policy", JOINS)
    async def test_one_that_waits_for_its_parents(
        self, penstock: RunningPenstock, policy: str, before: bool
    ) -> None:
        joins: Joins = {"z": self.JOINS[policy], "end": {"policy": "any_of"}}
        graph = await Graph.of(penstock, "a b c x z end", "a>z b>z c>z z>end x>end", joins)
        assert await graph.take() == {"a", "b", "c", "x"}
        if before:
            # One completed parent would be enough for any_of: there the first parent fails, which the join absorbs.
            await (graph.fail("a") if policy == "any_of" else graph.complete("a"))
        assert await cancel(penstock, graph.ids["z"]) == "canceled"
        assert await holders(penstock, graph.ids["z"]) == set()
        await graph.complete(*(graph.held.keys() & {"a", "b", "c"}))
        assert await graph.take() == set()  # its parents do not release it any more
        await graph.complete("x")
        assert await graph.take() == {"end"}
        await graph.complete("end")
        assert (await graph.ends("finished"))["status"] == "finished"
        assert (await graph.states())["z"] == "canceled"

    async def test_one_whose_end_nobody_absorbs_fails_its_flow(self, penstock: RunningPenstock) -> None:
        graph = await Graph.of(penstock, "a z later", "a>z z>later")
        await graph.take()
        await cancel(penstock, graph.ids["z"])
        assert (await graph.ends("failed"))["status"] == "failed"
        assert await graph.states() == {"a": "running", "z": "canceled", "later": "skipped"}
