"""Kill the cancel-reconciler while it stops members: the next one stops the others, and the backlog becomes empty."""

import asyncio
from pathlib import Path
from typing import Any

from flow_bodies import Graph
from running_penstock import RunningPenstock, fence
from service_processes import kill, start_process

MEMBERS = 3000
HELD = 200
KILLS = 3


async def canceled(graph: Graph) -> int:
    return (await graph.get())["counts"].get("canceled", 0)


async def test_the_next_one_goes_on(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    async with RunningPenstock.open(nats_url, valkey_url) as penstock:
        await penstock.running.pop("cancel-reconciler").stop()
        graph = await Graph.of(penstock, " ".join(f"m{n}" for n in range(MEMBERS)))
        tasks: list[dict[str, Any]] = []
        while len(tasks) < HELD:
            tasks += await penstock.take(HELD - len(tasks), start=True, lease_ttl_ms=600_000)
        process = await start_process(penstock, "cancel-reconciler", tmp_path / "first")
        asking = asyncio.create_task(penstock.request("flow.cancel", {"flow_id": graph.flow_id}))
        try:
            for number in range(1, KILLS + 1):
                before = await canceled(graph)
                if before == MEMBERS - HELD:
                    break  # this machine is too slow to kill it in time again
                await penstock.until(
                    lambda: canceled(graph), lambda n, before=before: n > before, "further stops"
                )
                await kill(process)
                process = await start_process(penstock, "cancel-reconciler", tmp_path / f"again{number}")
            await penstock.until(
                lambda: canceled(graph), lambda n: n == MEMBERS - HELD, "all that nobody holds"
            )
            backlog = await penstock.request("cancel.backlog", {"limit": 1000})
            assert {item["execution_id"] for item in backlog["items"]} == {
                task["execution_id"] for task in tasks
            }
            answers = await penstock.request("lease.complete", [fence(task) for task in tasks])
            assert {answer["ok"]["state"] for answer in answers} == {"canceled"}
            assert (await penstock.request("cancel.backlog"))["items"] == []
            reply = await penstock.request("flow.cancel", {"flow_id": graph.flow_id, "wait": True})
            assert (reply["result"], reply["member_count"]) == ("cancelled", MEMBERS)
            assert await canceled(graph) == MEMBERS
        finally:
            await kill(process)
            asking.cancel()
