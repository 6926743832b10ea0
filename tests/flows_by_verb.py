"""Helpers that create and change flows through their verbs."""

from typing import Any

from running_penstock import RunningPenstock


async def make_flow(
    penstock: RunningPenstock, keys: str = "", edges: str = "", *, start: bool = True, **fields: Any
) -> dict[str, Any]:
    """Create a flow, and start it unless `start` is false. `keys` is like `a b c`, `edges` like `a>b b>c`."""
    flow = await penstock.request(
        "flow.create",
        {
            "controller_id": "c",
            "goal": "g",
            "owner": "o",
            "members": [{"key": key, "kind": "test.job"} for key in keys.split()],
            "edges": [edge_of(each) for each in edges.split()],
            **fields,
        },
    )
    if start:
        await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
    return flow


def edge_of(text: str) -> dict[str, str]:
    one, _, other = text.partition(">")
    return {"from": one, "to": other}


async def get(penstock: RunningPenstock, flow: dict[str, Any]) -> dict[str, Any]:
    return await penstock.request("flow.get", {"flow_id": flow["flow_id"]})


async def change(penstock: RunningPenstock, verb: str, flow: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Change the graph at its present revision."""
    revision = (await get(penstock, flow))["graph_revision"]
    body = {"flow_id": flow["flow_id"], "graph_revision": revision, **fields}
    return await penstock.request(verb, body)


async def refused_change(penstock: RunningPenstock, verb: str, flow: dict[str, Any], **fields: Any) -> Any:
    revision = (await get(penstock, flow))["graph_revision"]
    body = {"flow_id": flow["flow_id"], "graph_revision": revision, **fields}
    return await penstock.refused(verb, body)
