"""Flows: legal moves and one end; and the same numbers for the flows that clients were told of."""

from collections.abc import Iterable
from typing import Any

from soak.checker.findings import Findings
from soak.checker.trail import Event

MOVES = {
    None: {"created", "running"},
    "created": {"running", "cancelled"},
    "running": {"waiting", "finished", "failed", "cancelled"},
    "waiting": {"running", "failed", "cancelled"},
}
TERMINAL = {"finished", "failed", "cancelled"}


def follow(
    events: Iterable[Event], told: dict[str, list[dict[str, Any]]], findings: Findings
) -> dict[str, str | None]:
    """Follow all flows, and return the last status of each."""
    statuses: dict[str, str | None] = {}
    for event in events:
        if event.entity != "flow":
            continue
        before = statuses.setdefault(event.id, None)
        if event.after is None:
            continue
        if before in TERMINAL:
            kind = "two_outcomes" if event.after in TERMINAL else "illegal_move"
            findings.report(kind, event.id, f"{event.name} after it was {before}")
        elif event.before != before or event.after not in MOVES[before]:
            findings.report("illegal_move", event.id, f"{event.before} to {event.after}, it was {before}")
        statuses[event.id] = event.after
    for id, status in statuses.items():
        if status not in TERMINAL:
            findings.report("not_terminal", id, f"the flow is {status}")
    for line in told.get("flow", []):
        if line["id"] not in statuses:
            findings.report("lost", line["id"], "the flow was accepted and is not in the trail")
    findings.counts["flows"] = len(statuses)
    findings.counts["accepted flows"] = len(told.get("flow", []))
    return statuses
