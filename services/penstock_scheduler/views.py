"""From the state machine's records to the contract's."""

from typing import Any, Final

_EXECUTION: Final[dict[str, Any]] = {
    "reason": None,
    "outcome": None,
    "input": None,
    "result": None,
    "failure": None,
    "attempt_id": None,
    "lease": None,
    "flow_id": None,
    "parent_id": None,
    "replay_of": None,
    "progress": None,
    "ready_at": None,
    "started_at": None,
    "finished_at": None,
    "deadline_at": None,
}

_FLOW: Final[dict[str, Any]] = {
    "requester_origin": None,
    "current_step": None,
    "wait": None,
    "finished_at": None,
}

_EVENT_FIELDS: Final = ("seq", "event", "at", "actor", "from", "to", "reason", "data")


def execution(record: dict[str, Any]) -> dict[str, Any]:
    """All fields of `execution.get`, null where the record has none."""
    caps: str | None = record.pop("caps", None)
    view = {**_EXECUTION, **record, "capabilities": caps.split(",") if caps else []}
    view["tags"] = record.get("tags") or {}
    return view


def flow(record: dict[str, Any]) -> dict[str, Any]:
    """All fields of `flow.get`."""
    view = {**_FLOW, **record}
    view["counts"] = record.get("counts") or {}
    return view


def event(packed: list[Any]) -> dict[str, Any]:
    """One event of a history; the record keeps "" where there is nothing."""
    view: dict[str, Any] = dict(zip(_EVENT_FIELDS, packed, strict=True))
    for name in ("actor", "from", "to", "reason", "data"):
        if view[name] == "":
            view[name] = None
    return view
