"""Executions: legal moves, one outcome, leases that do not overlap; and what was promised about several of them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from soak.checker.findings import Findings
from soak.checker.trail import Event

MOVES = {
    None: {"scheduled", "ready"},
    "scheduled": {"ready", "canceled"},
    "ready": {"leased", "canceled"},
    "leased": {"running", "ready", "canceled"},
    "running": {"retry_wait", "suspended", "completed", "failed", "canceled", "ready"},
    "retry_wait": {"ready", "failed", "canceled"},
    "suspended": {"ready", "failed", "canceled"},
}
TERMINAL = {"completed", "failed", "canceled"}
HELD = {"leased", "running"}


@dataclass
class Lease:
    """One lease: epoch (the execution's nth), worker, and when and how it began and ended.

    expired: it ran out. It then ended at some time before `ended_at`, when that was noticed.
    """

    epoch: int
    worker: str
    began_at: int
    ended_at: int | None = None
    ended_as: str | None = None
    expired: bool = False


@dataclass
class Life:
    """What the trail says of one execution."""

    id: str
    created: Event
    state: str | None = None
    ended_at: int | None = None
    leases: list[Lease] = field(default_factory=list)


def follow(events: Iterable[Event], findings: Findings) -> dict[str, Life]:
    """Follow all executions. Report illegal moves, second outcomes, overlapping leases, and what has not ended."""
    lives: dict[str, Life] = {}
    children: dict[str, set[str]] = {}
    for event in events:
        if event.entity != "execution":
            continue
        life = lives.get(event.id)
        if life is None:
            life = lives[event.id] = Life(event.id, event)
            if event.name != "created":
                findings.report("illegal_move", event.id, f"it begins with {event.name}")
            elif parent := event.data.get("parent_id"):
                children.setdefault(parent, set()).add(event.id)
        if event.after is not None:
            _move(life, event, findings)
        if event.name == "resumed" and event.reason == "children":
            open_ones = [child for child in children.get(event.id, ()) if lives[child].state not in TERMINAL]
            if open_ones:
                findings.report("children_open", event.id, f"it goes on while {open_ones[0]} has not ended")
    for life in lives.values():
        if life.state not in TERMINAL:
            findings.report("not_terminal", life.id, f"{life.created.data.get('kind')} is {life.state}")
    findings.counts["executions"] = len(lives)
    findings.counts["leases"] = sum(len(life.leases) for life in lives.values())
    return lives


def _move(life: Life, event: Event, findings: Findings) -> None:
    before, after = life.state, event.after
    assert after is not None
    begins = after in HELD and event.before not in HELD
    if begins and before in HELD:
        findings.report("lease_overlap", life.id, f"{event.actor} gets it while it was {before}")
    elif before in TERMINAL:
        kind = "two_outcomes" if after in TERMINAL else "illegal_move"
        findings.report(kind, life.id, f"{event.name} after it was {before}")
    elif event.before != before or not _legal(before, after, event):
        findings.report("illegal_move", life.id, f"{event.name}: {event.before} to {after}, it was {before}")
    if before in HELD and not begins and life.leases:
        _under_lease(life.leases[-1], event, life, findings)
    if begins:
        _lease(life, event, findings)
    life.state = after
    if after in TERMINAL:
        life.ended_at = event.at


def _legal(before: str | None, after: str, event: Event) -> bool:
    """Whether the contract has this move. Leased and begun in one step is one event, with data.via `leased`."""
    if (before, after) == ("ready", "running"):
        return event.name == "started" and event.data.get("via") == "leased"
    return after in MOVES.get(before, set())


def _lease(life: Life, event: Event, findings: Findings) -> None:
    lease = Lease(len(life.leases) + 1, _worker(event), event.at)
    told = event.data.get("lease_epoch")
    if told is not None and told != lease.epoch:
        findings.report("lease_epoch", life.id, f"lease {lease.epoch} has the epoch {told}")
    if life.leases and (life.leases[-1].ended_at or 0) > event.at:
        findings.report("lease_overlap", life.id, f"lease {lease.epoch} begins before the one before it ends")
    life.leases.append(lease)


def _under_lease(lease: Lease, event: Event, life: Life, findings: Findings) -> None:
    """Hold a move of a held execution against its lease."""
    if event.actor.startswith("worker:") and _worker(event) != lease.worker:
        findings.report("lease_overlap", life.id, f"{event.actor} moves it while {lease.worker} holds it")
    told = event.data.get("lease_epoch")
    if told is not None and told != lease.epoch:
        findings.report("lease_epoch", life.id, f"{event.name} names epoch {told} in lease {lease.epoch}")
    if event.after not in HELD:
        lease.ended_at, lease.ended_as = event.at, event.after
        lease.expired = event.reason == "lease_expired"


def _worker(event: Event) -> str:
    return event.data.get("worker_id") or event.actor.removeprefix("worker:")


def hold_against(lives: dict[str, Life], told: dict[str, list[dict[str, Any]]], findings: Findings) -> None:
    """Hold the executions against what clients and workers were answered."""
    accepted = told.get("execution", [])
    findings.counts["accepted executions"] = len(accepted)
    for line in accepted:
        if line["id"] not in lives:
            findings.report("lost", line["id"], "it was accepted and is not in the trail")
    _keys(accepted, findings)
    _unique(accepted, lives, findings)
    _quotas(accepted, lives, findings)
    for line in told.get("outcome", []):
        findings.counts["acknowledged outcomes"] += 1
        life = lives.get(line["execution"])
        lease = next((each for each in life.leases if each.epoch == line["epoch"]), None) if life else None
        if lease is None or (lease.worker, lease.ended_as) != (line["worker"], line["state"]):
            text = f"{line['worker']} was answered {line['state']} in lease {line['epoch']}, the trail has {lease}"
            findings.report("outcome_unknown", line["execution"], text)


def _keys(accepted: list[dict[str, Any]], findings: Findings) -> None:
    first: dict[str, str] = {}
    for line in accepted:
        key = line.get("key")
        if key and first.setdefault(key, line["id"]) != line["id"]:
            findings.report("idempotency_split", line["id"], f"{key} made {first[key]} too")


def _unique(accepted: list[dict[str, Any]], lives: dict[str, Life], findings: Findings) -> None:
    """Of the executions with one unique key at most one has not ended."""
    by_key: dict[str, set[str]] = {}
    for line in accepted:
        if line.get("unique"):
            by_key.setdefault(line["unique"], set()).add(line["id"])
    for key, ids in by_key.items():
        in_order = sorted((lives[id] for id in ids if id in lives), key=lambda life: life.created.place)
        for one, next_one in pairwise(in_order):
            if one.ended_at is None or next_one.created.at < one.ended_at:
                findings.report("unique_overlap", next_one.id, f"{one.id} with the key {key} had not ended")
    findings.counts["unique keys"] = len(by_key)


def _quotas(accepted: list[dict[str, Any]], lives: dict[str, Life], findings: Findings) -> None:
    """No more leases at once under a quota than its max_concurrent; when an expired one ended is not known."""
    quotas: dict[str, tuple[int, set[str]]] = {}
    for line in accepted:
        if line.get("quota"):
            quotas.setdefault(line["quota"], (line["most"], set()))[1].add(line["id"])
    for quota, (most, ids) in quotas.items():
        steps: Counter[tuple[int, int]] = (
            Counter()
        )  # at one instant, leases end (-1) before others begin (+1)
        for id in ids & lives.keys():
            for lease in (each for each in lives[id].leases if not each.expired):
                steps[lease.began_at, 1] += 1
                if lease.ended_at is not None:
                    steps[lease.ended_at, -1] += 1
        held = 0
        for (at, step), count in sorted(steps.items()):
            held += step * count
            if held > most:
                findings.report("quota_passed", quota, f"{held} leases at {at}, its limit is {most}")
                break
    findings.counts["quotas"] = len(quotas)
