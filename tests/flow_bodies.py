"""A short notation for the graphs of flows under test."""

from typing import Any

from running_penstock import RunningPenstock, fence

Joins = dict[str, dict[str, Any]]


class Graph:
    """A flow under test, whose members the test takes and ends by key. Edges are written `a>b`, or `a>b:data`."""

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
        """Start all ready members. Return their keys."""
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
        """Return each member's state, or its outcome if it is canceled."""
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
