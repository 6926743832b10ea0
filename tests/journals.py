"""Helpers for tests of journals."""

from typing import Any

from running_penstock import RunningPenstock, fence


def step(name: str, result: Any = None, **more: Any) -> dict[str, Any]:
    return {"key": f"step:{name}", "kind": "step", "name": name, "status": "done", "result": result} | more


async def append(
    penstock: RunningPenstock, task: dict[str, Any], *entries: dict[str, Any], **more: Any
) -> Any:
    return await penstock.request("journal.append", fence(task) | {"entries": list(entries)} | more)


async def journal(penstock: RunningPenstock, execution_id: str) -> list[dict[str, Any]]:
    return (await penstock.request("journal.read", {"execution_id": execution_id}))["items"]


async def journal_by_key(penstock: RunningPenstock, execution_id: str) -> dict[str, dict[str, Any]]:
    """Return a journal's entries, in order, by their keys."""
    return {entry["key"]: entry for entry in await journal(penstock, execution_id)}


async def statuses(penstock: RunningPenstock, execution_id: str) -> dict[str, str]:
    return {key: entry["status"] for key, entry in (await journal_by_key(penstock, execution_id)).items()}
