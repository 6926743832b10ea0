"""Explain why a ready execution does not run: its flow, its lane, its limits, or no worker to take it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from penstock.machine.kinds import takes
from penstock.words import NAMED, some
from penstock_scheduler.explaining.phrases import Facts, Reason, quoted, span, when


class Worker(NamedTuple):
    """A registered worker: the fields that decide which executions it can take."""

    worker_id: str
    lanes: frozenset[str]
    capabilities: frozenset[str]
    kinds: Sequence[str] | None = None
    """Kinds, and prefixes such as `mail.*`; None: all kinds."""
    draining: bool = False


def ready(facts: Facts, workers: Sequence[Worker] | None) -> Reason:
    lane, status = facts["lane"], facts.get("lane_status", "active")
    if facts.get("flow_status") == "cancelled":
        return Reason(
            "Its flow is cancelled; it will be canceled, not run.",
            "Nothing is to be done.",
            {"kind": "cancellation", "flow_id": facts.get("flow_id")},
        )
    if facts.get("flow_status") == "waiting":
        wait = facts.get("flow_wait") or {}
        return Reason(
            f"Its flow waits ({wait.get('kind', 'manual')}): none of its members begins meanwhile.",
            "It begins when the flow goes on; flow.resume ends the wait at once.",
            {"kind": "flow", "flow_id": facts.get("flow_id"), "wait": wait},
        )
    if status == "paused":
        return Reason(
            f"Lane {lane!r} is {status}: it hands out no work.",
            f"Resume the lane with lane.resume {lane}.",
            {"kind": "lane", "lane": lane, "status": status},
        )
    if (grant := facts.get("grant")) is not None:
        return Reason(
            f"It is granted to worker {grant['worker_id']!r}, which has not claimed it yet.",
            "Nothing: it starts within moments, or goes back to its queue when the grant runs out.",
            {"kind": "claim", **grant},
        )
    if (held := _held(facts)) is not None:
        return held
    return _unserved(facts, workers)


def _held(facts: Facts) -> Reason | None:
    """Return the reason if a limit has no room: a quota, a concurrency key or a budget."""
    block = facts.get("block") or {}
    for limit in facts.get("limits") or ():
        if limit["kind"] == "budget":
            if limit["exhausted"]:
                return _exhausted(limit)
            continue
        full, now = _full(limit, block)
        if full is None:
            continue
        again = f", with room again in {span(limit['retry_after_ms'])}" if limit.get("retry_after_ms") else ""
        name = "Quota" if limit["kind"] == "quota" else "Concurrency key"
        return Reason(
            f"{name} {limit['id']!r} is used up: {full}{again}.",
            "It starts by itself when there is room; raise the limit if that takes too long."
            if now
            else "It is tried again within moments.",
            dict(limit),
        )
    if block:
        return Reason(
            f"It is held: {block['code'].replace('_', ' ')}.",
            f"It is tried again by {when({**block, 'now': facts['now']}, 'until_at')}.",
            {
                "kind": block.get("reason") or "quota",
                "code": block["code"],
                "until_at": block.get("until_at"),
            },
        )
    return None


def _exhausted(budget: Mapping[str, Any]) -> Reason:
    full = [
        f"{each['used']} of {each['hard']} {name}"
        for name, each in sorted(budget["dimensions"].items())
        if each["used"] >= each["hard"]
    ]
    return Reason(
        f"Budget {budget['id']!r} is used up: {some(full, len(full))}.",
        "It starts by itself once the budget is replenished (budget.replenish) or reset.",
        dict(budget),
    )


def _full(limit: Mapping[str, Any], block: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return how a limit is used up, or None, and whether it still is: slots may be free since the last try."""
    most, per_window = limit.get("max_concurrent"), limit.get("max_per_window")
    if most is not None and limit["running"] >= most:
        return f"{limit['running']} of {most} run", True
    if per_window is not None and limit["in_window"] >= per_window:
        return f"{limit['in_window']} of {per_window} began in the last {span(limit['window_ms'])}", True
    if block.get("code") == "concurrency_limit_exceeded" and most is not None:
        return f"{limit['running']} of {most} ran at the last try", False
    return None, False


def _unserved(facts: Facts, workers: Sequence[Worker] | None) -> Reason:
    """Explain why no worker has taken an execution that nothing else holds back."""
    lane, kind = facts["lane"], facts.get("pinned") or facts["kind"]
    needs = frozenset((facts.get("caps") or "").split(",")) - {""}
    ahead = facts.get("ahead") or 0
    queue = f", behind {ahead} in its queue" if ahead else ", first in its queue"
    asks = f" with {quoted(sorted(needs))}" if needs else ""
    waiting_for: dict[str, Any] = {
        "kind": "worker",
        "lane": lane,
        "capabilities": sorted(needs),
        "ahead": ahead,
    }
    if workers is None:
        return Reason(
            f"It is ready{queue}: no worker{asks} has taken it from lane {lane!r} yet.",
            f"See that enough workers{asks} serve lane {lane!r}.",
            waiting_for,
        )
    serving = [each for each in workers if lane in each.lanes and not each.draining]
    waiting_for["workers"] = len(serving)
    if not serving:
        return Reason(
            f"No registered worker serves lane {lane!r}.",
            f"Start a worker{asks} for lane {lane!r}.",
            waiting_for,
        )
    takers = [each for each in serving if takes(each.kinds, kind)]
    names = [each.worker_id for each in serving]
    if not takers and facts.get("pinned"):
        return Reason(
            f"It needs {kind!r}, which no live worker has; lane {lane!r} is served by {quoted(names)}.",
            f"Start a worker{asks} that takes {kind!r} on lane {lane!r}, or go on with newer code by execution.fork.",
            waiting_for | {"kind": "handler", "execution_kind": kind, "serving": names[:NAMED]},
        )
    if not takers:
        return Reason(
            f"No live worker takes kind {kind!r}; lane {lane!r} is served by {quoted(names)}, for other kinds.",
            f"Start a worker{asks} with a handler for {kind!r} on lane {lane!r}.",
            waiting_for | {"kind": "handler", "execution_kind": kind, "serving": names[:NAMED]},
        )
    return _unable(waiting_for, takers, needs, queue)


def _unable(
    waiting_for: dict[str, Any], takers: Sequence[Worker], needs: frozenset[str], queue: str
) -> Reason:
    """Explain what the workers that take an execution's kind lack; if they lack nothing, that they have no time."""
    lane = waiting_for["lane"]
    lacking = {each.worker_id: sorted(needs - each.capabilities) for each in takers}
    if all(lacking.values()):
        missing = frozenset[str].intersection(*(needs - each.capabilities for each in takers)) or needs
        names = some([f"{name} lacks {quoted(what)}" for name, what in lacking.items()], len(lacking))
        return Reason(
            f"No worker of lane {lane!r} has all that it asks for ({quoted(sorted(needs))}): {names}.",
            f"Start a worker with {quoted(sorted(needs))} for lane {lane!r}.",
            waiting_for | {"kind": "capability", "missing": sorted(missing), "lacking": lacking},
        )
    able, all_ = sum(not what for what in lacking.values()), waiting_for["workers"]
    return Reason(
        f"It is ready{queue}; {able} of {all_} workers of lane {lane!r} can take it, none has yet.",
        "Wait for a free worker, start more of them, or raise its priority with execution.change_priority.",
        waiting_for,
    )
