"""A checker of Penstock's promises (docs/contract.md) that reads the audit trail and the load's journal alone.

It shares no code with Penstock and imports nothing of it: the states, the hash chain and all rules are written here a
second time, from the contract's text.
"""

from collections.abc import Iterable
from typing import Any

from soak.checker import deliveries, executions, flows, schedules, trail
from soak.checker.findings import Findings, Problem

__all__ = ["Findings", "Problem", "check"]


def check(
    messages: Iterable[tuple[int, bytes]], dead: Iterable[str], journal: Iterable[dict[str, Any]]
) -> Findings:
    """Check a whole run.

    messages: the audit stream, as (stream sequence, body); dead: the message ids of all dead letters; journal: as
    soak.journal says.
    """
    findings = Findings()
    events = trail.events(messages, findings)
    told: dict[str, list[dict[str, Any]]] = {}
    for line in journal:
        told.setdefault(line["what"], []).append(line)
    lives = executions.follow(events, findings)
    executions.hold_against(lives, told, findings)
    ended = flows.follow(events, told, findings)
    deliveries.check(events, ended, set(dead), told, findings)
    schedules.check(events, told, findings)
    schedules.check_budgets(events, told, findings)
    return findings
