"""lane.list: the depth of each lane, tested over NATS only."""

from typing import Any

from penstock.states import MOVES
from running_penstock import RunningPenstock, fence


async def lanes(house: RunningPenstock, **body: Any) -> dict[str, dict[str, Any]]:
    return {lane["lane"]: lane for lane in (await house.request("lane.list", body))["items"]}


class TestList:
    async def test_none_yet(self, penstock: RunningPenstock) -> None:
        assert await penstock.request("lane.list") == {"items": [], "cursor": None}

    async def test_depth_per_state(self, penstock: RunningPenstock) -> None:
        for _ in range(4):
            await penstock.create(lane="a")
        await penstock.create(lane="a", run_at=4 * 10**12)
        await penstock.create(lane="b")
        done = await penstock.begin(lanes=["a"])
        await penstock.request("lease.complete", fence(done))
        await penstock.begin(lanes=["a"])
        await penstock.take(1, lanes=["a"])
        seen = await lanes(penstock)
        assert set(seen) == {"a", "b"}
        depth = seen["a"]["depth"]
        assert set(depth) == set(MOVES)
        assert {state: count for state, count in depth.items() if count} == {
            "scheduled": 1, "ready": 1, "leased": 1, "running": 1, "completed": 1,
        }  # fmt: skip
        assert (seen["a"]["status"], seen["b"]["depth"]["ready"]) == ("active", 1)

    async def test_the_age_of_the_oldest(self, penstock: RunningPenstock) -> None:
        await penstock.create(lane="old")
        await penstock.create(lane="later", run_at=4 * 10**12)
        penstock.move_clock(60_000)
        seen = await lanes(penstock)
        assert 60_000 <= seen["old"]["oldest_ready_age_ms"] < 120_000
        assert seen["later"]["oldest_ready_age_ms"] is None

    async def test_pages_in_alphabetical_order(self, penstock: RunningPenstock) -> None:
        names = [f"lane{n:02}" for n in range(11)]
        await penstock.request("execution.create", [{"kind": "t", "lane": name} for name in names[::-1]])
        for limit in (1, 3, 11, 100):
            found: list[str] = []
            cursor = None
            while True:
                page = await penstock.request("lane.list", {"limit": limit, "cursor": cursor})
                assert len(page["items"]) <= limit
                found += [lane["lane"] for lane in page["items"]]
                cursor = page["cursor"]
                if cursor is None:
                    break
            assert found == names

    async def test_bad_requests(self, penstock: RunningPenstock) -> None:
        for field, value in (("limit", 0), ("limit", 1001), ("cursor", 7), ("lane", "a")):
            error = await penstock.refused("lane.list", {field: value})
            assert (error.code, error.detail) == ("invalid_request", {"field": field})
