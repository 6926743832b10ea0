"""Schedules: one execution for each due time. Budgets: what was reported counts once, and adds up."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from soak.checker.findings import Findings
from soak.checker.trail import Event

USAGE = {"usage", "soft_breach", "hard_breach"}


def check(events: Iterable[Event], told: dict[str, list[dict[str, Any]]], findings: Findings) -> None:
    expected: dict[str, set[int]] = {}
    ended: set[str] = set()
    fired: Counter[tuple[str, int]] = Counter()
    for event in events:
        if event.entity == "schedule":
            if event.name == "created":
                expected[event.id] = due_times(event.data)
            elif event.name == "finished":
                ended.add(event.id)
        elif event.entity == "execution" and event.name == "created" and "schedule_id" in event.data:
            fired[event.data["schedule_id"], event.data["due_at"]] += 1
    for (schedule, at), count in fired.items():
        if count > 1:
            findings.report("due_twice", schedule, f"{count} executions for {at}")
        if at not in expected.get(schedule, ()):
            findings.report("due_unexpected", schedule, f"an execution for {at}")
    for schedule, times in expected.items():
        if schedule not in ended:
            findings.report("not_terminal", schedule, "the schedule has not finished")
        for at in times:
            if not fired[schedule, at]:
                findings.report("due_missing", schedule, f"no execution for {at}")
    for line in told.get("schedule", []):
        if line["id"] not in expected:
            findings.report("lost", line["id"], "the schedule was accepted and is not in the trail")
    findings.counts["schedules"] = len(expected)
    findings.counts["due times"] = sum(map(len, expected.values()))


def due_times(data: dict[str, Any]) -> set[int]:
    """Return all due times of a schedule with `at`, or with `every_ms` and `count`, from its event `created`."""
    if data.get("at") is not None:
        return {data["at"]}
    return {data["next_at"] + data["every_ms"] * n for n in range(data["count"])}


def check_budgets(events: Iterable[Event], told: dict[str, list[dict[str, Any]]], findings: Findings) -> None:
    used: dict[str, Counter[str]] = {}
    reports: dict[tuple[str, str], list[dict[str, int]]] = {}
    for event in events:
        if event.entity != "budget":
            continue
        total = used.setdefault(event.id, Counter())
        if event.name in USAGE:
            total.update(event.data["dimensions"])
            if +total != +Counter(event.data["used"]):
                text = f"{event.data['used']} are used, the reports add up to {dict(total)}"
                findings.report("budget_off", event.id, text)
                used[event.id] = Counter(event.data["used"])
            reports.setdefault((event.id, event.data["execution_id"]), []).append(event.data["dimensions"])
        elif event.name == "reset":
            if +total != +Counter(event.data.get("used") or {}):
                findings.report("budget_off", event.id, f"{event.data} was reset, it had {dict(total)}")
            total.clear()
    for (budget, execution), amounts in reports.items():
        if len(amounts) > 1:
            findings.report("usage_twice", budget, f"{execution} counts {len(amounts)} times")
    for line in told.get("usage", []):
        if line["amounts"] not in reports.get((line["budget"], line["execution"]), []):
            findings.report("usage_lost", line["budget"], f"{line['execution']} reported {line['amounts']}")
    findings.counts["budgets"] = len(used)
    findings.counts["usage reports"] = len(reports)
