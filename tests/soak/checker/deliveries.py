"""What was published: each signal, event, observation and triggering message has one effect, or is a dead letter."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from soak.checker.findings import Findings
from soak.checker.trail import Event

SIGNALS = {"signal_buffered", "signal_recorded", "signal_ignored"}
COUNTED = {"signal_buffered", "signal_recorded"}
OBSERVATIONS = {"observed", "observation_dropped"}
TRIGGERED = "soak.triggered"


def check(
    events: Iterable[Event],
    flows: dict[str, str | None],
    dead: set[str],
    told: dict[str, list[dict[str, Any]]],
    findings: Findings,
) -> None:
    """flows: the last status of each; dead: the message ids of the dead letters."""
    signals: Counter[tuple[str, str]] = Counter()
    counted: Counter[str] = Counter()
    wakes: Counter[tuple[str, str]] = Counter()
    observed: Counter[tuple[str, str, str, int]] = Counter()
    triggered = 0
    for event in events:
        data = event.data
        if event.entity == "waitpoint":
            if event.name in SIGNALS:
                # One that came too late leaves no trace in the waitpoint: its redelivery is told once more.
                known = event.name not in COUNTED and signals[event.id, data["signal_id"]]
                signals[event.id, data["signal_id"]] += not known
                counted[event.id] += event.name in COUNTED
            elif event.name == "satisfied" and data["signals"] != counted[event.id]:
                text = f"{data['signals']} signals satisfied it, {counted[event.id]} had come"
                findings.report("signal_twice", event.id, text)
        elif event.entity == "flow":
            if event.name == "resumed" and event.reason == "external_event":
                wakes[event.id, data["event_id"]] += 1
            elif event.name in OBSERVATIONS and "run_id" in data:
                status = data["to"] if event.name == "observed" else data["status"]
                observed[event.id, data["run_id"], status, data["observed_at"]] += 1
        elif event.entity == "execution" and event.name == "created" and data.get("kind") == TRIGGERED:
            triggered += 1

    once(signals, "signal", findings)
    once(wakes, "event", findings)
    once(observed, "observation", findings)
    for line in told.get("signal", []):
        if not signals[line["waitpoint"], line["id"]] and line["id"] not in dead:
            findings.report("signal_lost", line["waitpoint"], f"the signal {line['id']} had no effect")
    for line in told.get("event", []):
        for flow in line["flows"]:
            # A cancellation or failure may have come before the event.
            if not wakes[flow, line["id"]] and flows.get(flow) == "finished" and line["id"] not in dead:
                findings.report("event_lost", flow, f"the event {line['id']} did not wake it")
    for line in told.get("observation", []):
        key = (line["flow"], line["run"], line["status"], line["at"])
        if not observed[key] and line["message"] not in dead:
            findings.report("observation_lost", line["flow"], f"{line['run']} {line['status']} had no effect")
    messages = {line["id"] for line in told.get("triggered", [])}
    if triggered != len(messages):
        kind = "trigger_twice" if triggered > len(messages) else "trigger_lost"
        findings.report(kind, TRIGGERED, f"{len(messages)} messages made {triggered} executions")
    findings.counts["signals"] = len(told.get("signal", []))
    findings.counts["events for flows"] = len(told.get("event", []))
    findings.counts["observations"] = len(told.get("observation", []))
    findings.counts["triggering messages"] = len(messages)
    findings.counts["dead letters"] = len(dead)


def once(effects: Counter[Any], what: str, findings: Findings) -> None:
    for (id, *rest), count in effects.items():
        if count > 1:
            findings.report(f"{what}_twice", id, f"{rest} had {count} effects")
