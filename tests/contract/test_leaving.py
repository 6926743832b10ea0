"""Flows that nobody started and lanes without executions are removed, with their index entries and queues."""

from running_penstock import RunningPenstock

DAY_MS = 24 * 3_600_000
FLOW = {"controller_id": "c", "owner": "o", "goal": "g"}


async def test_a_flow_that_is_never_started_is_cancelled_and_retires(penstock: RunningPenstock) -> None:
    members = [{"key": f"m{n}", "kind": "k"} for n in range(120)]
    made = await penstock.request("flow.create", {**FLOW, "members": members})
    body = {"flow_id": made["flow_id"]}
    penstock.move_clock(6 * DAY_MS)
    assert (await penstock.request("flow.get", body))["status"] == "created"
    penstock.move_clock(2 * DAY_MS)
    flow = await penstock.until(
        lambda: penstock.request("flow.get", body),
        lambda flow: flow["counts"] == {"canceled": 120},
        "its cancellation",
    )
    assert flow["status"] == "cancelled"
    penstock.move_clock(8 * DAY_MS)

    async def left() -> int:
        return len((await penstock.request("flow.list", {}))["items"])

    await penstock.until(left, lambda n: n == 0, "its retirement")
    assert (await penstock.refused("flow.get", body)).code == "flow_not_found"


async def test_a_lane_without_executions_leaves_the_index_with_its_queues(penstock: RunningPenstock) -> None:
    made = [
        await penstock.create(lane=f"lane-{n}", capabilities=["gpu"] if n % 2 else [], fairness_key=f"f{n}")
        for n in range(20)
    ]
    kept = await penstock.create(lane="kept")
    await penstock.request("lane.pause", {"lane": "lane-3"})
    for execution_id in made:
        await penstock.request("execution.cancel", {"execution_id": execution_id})
    penstock.move_clock(8 * DAY_MS)

    async def lanes() -> list[str]:
        return [item["lane"] for item in (await penstock.request("lane.list", {}))["items"]]

    await penstock.until(lanes, lambda found: found == ["kept", "lane-3"], "the lanes' leaving")
    await penstock.get(kept)
    keys = [key.split("}:")[1] for key in await penstock.keys()]
    assert not [
        key
        for key in keys
        if key.startswith(("ring:", "caps:", "lines:", "turns:", "rings:", "sets:", "fronts:", "kinds:"))
        and "kept" not in key
        and "lane-3" not in key
    ]
    await penstock.create(lane="lane-5")  # a removed lane can be used again
    assert "lane-5" in await lanes()
