"""execution.get, .history and .list."""

from typing import Any

import pytest

from running_penstock import NOWHERE, RunningPenstock, fence


async def every(house: RunningPenstock, verb: str, limit: int, **filters: Any) -> list[dict[str, Any]]:
    """Read a list page by page and return all its items."""
    items: list[dict[str, Any]] = []
    cursor = None
    for _ in range(1000):
        page = await house.request(verb, {**filters, "limit": limit, "cursor": cursor})
        assert len(page["items"]) <= limit
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None:
            return items
    raise AssertionError("the cursor never ends")


class TestRead:
    async def test_what_is_not_there(self, penstock: RunningPenstock) -> None:
        for verb in ("execution.get", "execution.history", "execution.wait"):
            for execution_id in (NOWHERE, NOWHERE.replace("0-", "99999-", 1)):
                error = await penstock.refused(verb, {"execution_id": execution_id})
                assert (error.code, error.number) == ("execution_not_found", 404)
                assert error.detail == {"execution_id": execution_id}

    async def test_illegal_ids(self, penstock: RunningPenstock) -> None:
        for execution_id in (
            "",
            "x",
            "0-",
            f"a{NOWHERE}",
            f"{NOWHERE}\n",
            f" {NOWHERE}",
            "*",
            "0-*",
            7,
            None,
        ):
            error = await penstock.refused("execution.get", {"execution_id": execution_id})
            assert (error.code, error.detail) == ("invalid_request", {"field": "execution_id"})

    async def test_a_batch(self, penstock: RunningPenstock) -> None:
        ids = [await penstock.create() for _ in range(3)]
        asked = [*ids, NOWHERE, "x"]
        answers = await penstock.request("execution.get", [{"execution_id": each} for each in asked])
        assert [answer["ok"]["execution_id"] for answer in answers[:3]] == ids
        assert [answer["error"]["code"] for answer in answers[3:]] == [
            "execution_not_found",
            "invalid_request",
        ]

    async def test_history_is_oldest_first_in_pages(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        for pct in (10, 20):
            await penstock.request("lease.progress", {**fence(task), "pct": pct, "message": "on"})
        await penstock.request("lease.complete", fence(task))
        page = await penstock.request("execution.history", {"execution_id": execution_id})
        assert page["cursor"] is None
        names = [event["event"] for event in page["items"]]
        assert names == ["created", "started", "progress", "progress", "completed"]
        assert [event["seq"] for event in page["items"]] == list(range(1, 6))
        assert (await penstock.get(execution_id))["seq"] == 5
        first, last = page["items"][0], page["items"][-1]
        assert (first["from"], first["to"], first["actor"]) == (None, "ready", None)
        assert (last["from"], last["to"], last["actor"]) == ("running", "completed", "worker:w1")
        assert page["items"][2]["data"] == {"pct": 10, "message": "on"}
        pieces: list[Any] = []
        cursor = None
        while True:
            body = {"execution_id": execution_id, "limit": 4, "cursor": cursor}
            piece = await penstock.request("execution.history", body)
            pieces += piece["items"]
            cursor = piece["cursor"]
            if cursor is None:
                break
        assert pieces == page["items"]
        error = await penstock.refused("execution.history", {"execution_id": execution_id, "cursor": "x"})
        assert error.detail == {"field": "cursor"}

    async def test_a_long_history(self, nats_url: str, valkey_url: str) -> None:
        """The first events have moved out of the execution's record."""
        async with RunningPenstock.open(nats_url, valkey_url, progress_events_ms=0) as penstock:
            await self._a_long_history(penstock)

    async def _a_long_history(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        steps = [{**fence(task), "pct": n / 10, "message": "m" * 50} for n in range(600)]
        await penstock.request("lease.progress", steps)
        await penstock.request("lease.complete", fence(task))
        events: list[Any] = []
        cursor = None
        while not events or cursor is not None:
            body = {"execution_id": execution_id, "limit": 250, "cursor": cursor}
            page = await penstock.request("execution.history", body)
            events += page["items"]
            cursor = page["cursor"]
        assert [event["seq"] for event in events] == list(range(1, 604))
        assert [event["data"]["pct"] for event in events[2:-1]] == [n / 10 for n in range(600)]
        assert (await penstock.get(execution_id))["seq"] == 603


class TestList:
    async def test_newest_first_in_pages(self, penstock: RunningPenstock) -> None:
        ids = [await penstock.create(lane=f"lane{n % 3}") for n in range(17)]
        for limit in (1, 4, 17, 1000):
            items = await every(penstock, "execution.list", limit)
            assert [item["execution_id"] for item in items] == ids[::-1]

    @pytest.mark.parametrize("verb", ["execution.list", "flow.list", "schedule.list"])
    async def test_large_ones_come_in_short_pages(self, penstock: RunningPenstock, verb: str) -> None:
        resource, large = verb.partition(".")[0], "x" * 400_000
        for n in range(10):
            match resource:
                case "execution":
                    await penstock.create(input=large)
                case "flow":
                    body = {"controller_id": "c", "goal": str(n), "owner": "o", "state": large}
                    await penstock.request("flow.create", body)
                case _:
                    body = {"execution": {"kind": "k", "input": large}, "at": 4 * 10**12}
                    await penstock.request("schedule.create", body)
        size = len((await penstock.ask(f"{resource}.list", b'{"limit": 1000}')).data)
        assert 400_000 < size < 1_000_000
        items = await every(penstock, verb, 1000)
        assert len({item[f"{resource}_id"] for item in items}) == len(items) == 10

    async def test_large_ones_of_a_flow_come_in_short_pages(self, penstock: RunningPenstock) -> None:
        members = [{"key": f"m{n}", "kind": "k", "input": "x" * 100_000} for n in range(9)]
        flow = await penstock.request(
            "flow.create", {"controller_id": "c", "goal": "g", "owner": "o", "members": members}
        )
        page = await penstock.request("execution.list", {"flow_id": flow["flow_id"], "limit": 1000})
        assert len(page["items"]) == 5
        items = await every(penstock, "execution.list", 1000, flow_id=flow["flow_id"])
        assert {item["execution_id"] for item in items} == set(flow["members"].values())

    async def test_filters_must_all_hold(self, penstock: RunningPenstock) -> None:
        await penstock.create(kind="a", lane="l", namespace="n")
        wanted = await penstock.create(kind="b", lane="l", namespace="n")
        await penstock.create(kind="b", lane="m", namespace="n")
        await penstock.create(kind="b", lane="l", namespace="o")
        later = await penstock.create(kind="b", lane="l", namespace="n", run_at=4 * 10**12)

        async def found(**filters: Any) -> list[str]:
            return [each["execution_id"] for each in await every(penstock, "execution.list", 2, **filters)]

        assert await found(kind="b", lane="l", namespace="n", state="ready") == [wanted]
        assert await found(kind="b", lane="l", namespace="n") == [later, wanted]
        assert await found(state="scheduled") == [later]
        assert await found(lane="nowhere") == []
        assert await found(flow_id=NOWHERE) == []

    async def test_states_follow_at_once(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()

        async def states(state: str) -> list[str]:
            page = await penstock.request("execution.list", {"state": state})
            return [item["execution_id"] for item in page["items"]]

        assert await states("ready") == [execution_id]
        task = (await penstock.take())[0]
        assert (await states("ready"), await states("leased")) == ([], [execution_id])
        await penstock.request("lease.start", fence(task))
        await penstock.request("lease.complete", fence(task))
        assert (await states("running"), await states("completed")) == ([], [execution_id])

    async def test_bad_filters(self, penstock: RunningPenstock) -> None:
        bad = {"limit": 0, "state": "sleeping", "lane": "a b", "colour": "red", "flow_id": "f", "kind": ""}
        for field, value in [*bad.items(), ("limit", 1001)]:
            error = await penstock.refused("execution.list", {field: value})
            assert (error.code, error.detail) == ("invalid_request", {"field": field})
