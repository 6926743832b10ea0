"""Why does it not run now? One reason, in a sentence, with what to do: a pure function of facts.

The facts are lua/lib/facts.lua's, with `limits` completed and `workers` added by the caller.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

Facts = Mapping[str, Any]
NAMED: Final = 10
"""As many workers, parents or signals are named; the rest is counted."""


class Worker(NamedTuple):
    """A registered worker, as far as it matters for who may do what."""

    worker_id: str
    lanes: frozenset[str]
    capabilities: frozenset[str]
    draining: bool = False


class Reason(NamedTuple):
    """What holds it, for people and for programs."""

    explanation: str
    advice: str
    waiting_for: dict[str, Any]


def explain(facts: Facts, workers: Sequence[Worker] | None = None) -> dict[str, Any]:
    """The reply of execution.explain. `workers`: the registry, or None where there is none."""
    if facts["state"] == "ready":
        reason = _ready(facts, workers)
    elif facts["state"] == "suspended":
        reason = _SUSPENDED.get(facts.get("reason") or "", _unknown)(facts)
    else:
        reason = _STATES[facts["state"]](facts)
    return {
        "execution_id": facts["execution_id"],
        "state": facts["state"],
        "reason": facts.get("reason"),
        "explanation": reason.explanation,
        "advice": reason.advice,
        "waiting_for": reason.waiting_for,
    }


# -- scheduled, retry_wait ------------------------------------------------------------------------


def _scheduled(facts: Facts) -> Reason:
    if facts.get("reason") != "dependencies":
        return Reason(
            f"It is scheduled for {_when(facts, 'wake_at')}.",
            "Wait until then, or start it with execution.run_now.",
            {"kind": "time", "at": facts.get("wake_at")},
        )
    waiting_for = {
        "kind": "dependencies",
        "flow_id": facts.get("flow_id"),
        "flow_status": facts.get("flow_status"),
        "join": facts.get("join"),
        "unmet": facts.get("unmet", 0),
        "parents": list(facts.get("parents") or ()),
    }
    if facts.get("flow_status") == "created":
        return Reason("Its flow has not been started.", "Start the flow with flow.start.", waiting_for)
    parents = waiting_for["parents"]
    names = _some([f"{each['key']!r} ({_state(each)})" for each in parents], waiting_for["unmet"])
    return Reason(
        f"It waits for {_join(facts.get('join'), waiting_for['unmet'])}: {names}.",
        "Explain those members to see what holds them.",
        waiting_for,
    )


def _join(join: Mapping[str, Any] | None, unmet: int) -> str:
    policy = (join or {}).get("policy")
    if join and policy == "any_of":
        return "any one of its parents"
    if join and policy == "quorum":
        return f"{join['k'] - join['ok']} more of its parents (a quorum of {join['k']})"
    return "a parent in its flow" if unmet == 1 else f"{unmet} parents in its flow"


def _retry_wait(facts: Facts) -> Reason:
    return Reason(
        f"Attempt {facts['attempt_index']} of {facts['max_attempts']} failed{_failure(facts)}; "
        f"the next one is due at {_when(facts, 'wake_at')}.",
        "Wait until then, or retry at once with execution.run_now.",
        {"kind": "time", "at": facts.get("wake_at"), "next_attempt": facts["attempt_index"] + 1},
    )


# -- ready ----------------------------------------------------------------------------------------


def _ready(facts: Facts, workers: Sequence[Worker] | None) -> Reason:
    lane, status = facts["lane"], facts.get("lane_status", "active")
    if facts.get("flow_status") == "cancelled":
        return Reason(
            "Its flow is cancelled; it will be canceled, not run.",
            "Nothing is to be done.",
            {"kind": "cancellation", "flow_id": facts.get("flow_id")},
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
    """A limit without room: a quota, a concurrency key, a budget."""
    block = facts.get("block") or {}
    for limit in facts.get("limits") or ():
        if limit["kind"] == "budget":
            if limit["exhausted"]:
                return _exhausted(limit)
            continue
        full, now = _full(limit, block)
        if full is None:
            continue
        again = (
            f", with room again in {_span(limit['retry_after_ms'])}" if limit.get("retry_after_ms") else ""
        )
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
            f"It is tried again by {_when({**block, 'now': facts['now']}, 'until_at')}.",
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
        f"Budget {budget['id']!r} is used up: {_some(full, len(full))}.",
        "It starts by itself once the budget is replenished (budget.replenish) or reset.",
        dict(budget),
    )


def _full(limit: Mapping[str, Any], block: Mapping[str, Any]) -> tuple[str | None, bool]:
    """How it is used up, and whether it still is (it may have had room since the last try)."""
    most, per_window = limit.get("max_concurrent"), limit.get("max_per_window")
    if most is not None and limit["running"] >= most:
        return f"{limit['running']} of {most} run", True
    if per_window is not None and limit["in_window"] >= per_window:
        return f"{limit['in_window']} of {per_window} began in the last {_span(limit['window_ms'])}", True
    if block.get("code") == "concurrency_limit_exceeded" and most is not None:
        return f"{limit['running']} of {most} ran at the last try", False
    return None, False


def _unserved(facts: Facts, workers: Sequence[Worker] | None) -> Reason:
    """It may be handed out: is there anybody to take it?"""
    lane = facts["lane"]
    needs = frozenset((facts.get("caps") or "").split(",")) - {""}
    ahead = facts.get("ahead") or 0
    queue = f", behind {ahead} in its queue" if ahead else ", first in its queue"
    asks = f" with {_list(sorted(needs))}" if needs else ""
    waiting_for = {"kind": "worker", "lane": lane, "capabilities": sorted(needs), "ahead": ahead}
    if workers is None:
        return Reason(
            f"It is ready{queue}: no worker{asks} has taken it from lane {lane!r} yet.",
            f"See that enough workers{asks} serve lane {lane!r}.",
            waiting_for,
        )
    serving = [each for each in workers if lane in each.lanes and not each.draining]
    lacking = {each.worker_id: sorted(needs - each.capabilities) for each in serving}
    waiting_for["workers"] = len(serving)
    if not serving:
        return Reason(
            f"No registered worker serves lane {lane!r}.",
            f"Start a worker{asks} for lane {lane!r}.",
            waiting_for,
        )
    if all(lacking.values()):
        missing = frozenset[str].intersection(*(needs - each.capabilities for each in serving)) or needs
        waiting_for |= {"kind": "capability", "missing": sorted(missing), "lacking": lacking}
        names = _some([f"{name} lacks {_list(what)}" for name, what in lacking.items()], len(lacking))
        return Reason(
            f"No worker of lane {lane!r} has all that it asks for ({_list(sorted(needs))}): {names}.",
            f"Start a worker with {_list(sorted(needs))} for lane {lane!r}.",
            waiting_for,
        )
    able = sum(not what for what in lacking.values())
    return Reason(
        f"It is ready{queue}; {able} of {len(serving)} workers of lane {lane!r} can take it, none has yet.",
        "Wait for a free worker, start more of them, or raise its priority with execution.change_priority.",
        waiting_for,
    )


# -- leased, running ------------------------------------------------------------------------------


def _held_by_worker(facts: Facts) -> Reason:
    lease = facts["lease"]
    doing = "runs on" if facts["state"] == "running" else "is leased to"
    waiting_for = {
        "kind": "outcome",
        "worker_id": lease["worker_id"],
        "lease_expires_at": lease["expires_at"],
        "attempt_expires_at": facts.get("attempt_expires_at"),
        "cancel_requested": facts.get("cancel_requested", False),
    }
    if facts.get("cancel_requested"):
        stop_by = f" by {_when(facts, 'stop_by')}" if facts.get("stop_by") else ""
        return Reason(
            f"It {doing} worker {lease['worker_id']!r}, which was asked to stop{stop_by}.",
            "Nothing: past the grace its lease is revoked.",
            waiting_for,
        )
    return Reason(
        f"It {doing} worker {lease['worker_id']!r}; the lease lasts until "
        f"{_when({**lease, 'now': facts['now']}, 'expires_at')} and is renewed while the worker lives.",
        "Nothing: it is being worked on. lease.revoke takes it away, execution.cancel stops it.",
        waiting_for,
    )


# -- suspended ------------------------------------------------------------------------------------


def _signal(facts: Facts) -> Reason:
    waitpoint = facts.get("waitpoint") or {}
    missing = missing_signals(waitpoint.get("condition"), waitpoint.get("tally") or {})
    waiting_for = {
        "kind": "signal",
        "waitpoint_id": waitpoint.get("waitpoint_id"),
        "waitpoint_key": waitpoint.get("key"),
        "missing": missing,
        "received": waitpoint.get("n", 0),
        "timeout_at": facts.get("wake_at"),
        "timeout_behavior": facts.get("on_timeout"),
    }
    key = f" at waitpoint {waitpoint['key']!r}" if waitpoint.get("key") else ""
    limit = ""
    if facts.get("wake_at") is not None:
        limit = f"; at {_when(facts, 'wake_at')} it times out ({facts.get('on_timeout')})"
    return Reason(
        f"It waits for {_some(missing, len(missing), ' and ')}{key}{limit}.",
        "Deliver the signal with the waitpoint's token (signal.deliver), or cancel it.",
        waiting_for,
    )


def _delay(facts: Facts) -> Reason:
    return Reason(
        f"Its worker delayed it until {_when(facts, 'wake_at')}.",
        "Wait until then, or go on at once with execution.run_now.",
        {"kind": "time", "at": facts.get("wake_at")},
    )


def _children(facts: Facts) -> Reason:
    count = facts.get("children_open") or 0
    return Reason(
        f"It waits for {count} of its children to end." if count != 1 else "It waits for a child to end.",
        "Explain the children to see what holds them.",
        {"kind": "children", "open": count},
    )


def _budget(facts: Facts) -> Reason:
    budget_id = facts.get("budget_id")
    name = f"Budget {budget_id!r}" if budget_id else "Its budget"
    return Reason(
        f"{name} went past its hard limit.",
        "It goes on by itself once the budget is replenished (budget.replenish) or reset.",
        {"kind": "budget", "budget_id": budget_id},
    )


def _operator(_facts: Facts) -> Reason:
    return Reason("An operator holds it.", "Let it go on with execution.resume.", {"kind": "operator"})


def _unknown(facts: Facts) -> Reason:
    return Reason(f"It is {_state(facts)}.", "See its history with execution.history.", {"kind": "unknown"})


# -- terminal -------------------------------------------------------------------------------------


def _ended(facts: Facts) -> Reason:
    at, replay = _when(facts, "finished_at"), "Run it again with execution.replay."
    waiting_for = {
        "kind": "nothing",
        "outcome": facts.get("outcome"),
        "failure": facts.get("failure"),
        "finished_at": facts.get("finished_at"),
    }
    if facts["state"] == "completed":
        return Reason(f"It completed at {at}.", "Nothing is to be done.", waiting_for)
    if facts["state"] == "canceled":
        outcome = facts.get("outcome") or "canceled"
        return Reason(f"It was {outcome} at {at}{_failure(facts)}.", replay, waiting_for)
    tries = f" after {facts['attempt_index']} of {facts['max_attempts']} attempts"
    return Reason(f"It failed at {at}{tries}{_failure(facts)}.", replay, waiting_for)


_SUSPENDED: Final[dict[str, Callable[[Facts], Reason]]] = {
    "signal": _signal,
    "delay": _delay,
    "children": _children,
    "budget": _budget,
    "operator": _operator,
}
_STATES: Final[dict[str, Callable[[Facts], Reason]]] = {
    "scheduled": _scheduled,
    "leased": _held_by_worker,
    "running": _held_by_worker,
    "retry_wait": _retry_wait,
    "completed": _ended,
    "failed": _ended,
    "canceled": _ended,
}


# -- conditions -----------------------------------------------------------------------------------


def missing_signals(condition: Mapping[str, Any] | None, tally: Mapping[str, Any]) -> list[str]:
    """What is still needed, each a phrase: `a signal 'approved'`, `2 more of …`. All of them are needed."""
    if condition is None:
        return ["any signal"]
    return _missing(condition, tally)


def _missing(node: Mapping[str, Any], tally: Mapping[str, Any]) -> list[str]:
    if "name" in node:
        return [] if node["name"] in tally else [f"a signal {node['name']!r}"]
    if "prefix" in node:
        return [] if _matching(node, tally) else [f"a signal '{node['prefix']}*'"]
    if "all" in node:
        return [phrase for each in node["all"] for phrase in _missing(each, tally)]
    if "any" in node:
        branches = [_missing(each, tally) for each in node["any"]]
        if not all(branches):
            return []
        return [" or ".join(" with ".join(branch) for branch in branches)]
    names = _matching(node, tally)
    if node.get("distinct"):
        have = len({source for name in names for source in tally[name]["s"]})
    else:
        have = sum(tally[name]["n"] for name in names)
    if have >= node["n"]:
        return []
    sources = " from other sources" if node.get("distinct") and have else ""
    return [f"{node['n'] - have} more of {_some(_leaves(node), len(_leaves(node)), ' or ')}{sources}"]


def _matching(node: Mapping[str, Any], tally: Mapping[str, Any]) -> set[str]:
    """The names of signals that count for this node."""
    if "name" in node:
        return {node["name"]} & tally.keys()
    if "prefix" in node:
        return {name for name in tally if name.startswith(node["prefix"])}
    if "all" in node and any(_missing(each, tally) for each in node["all"]):
        return set()
    branches = node.get("any") or node.get("all") or node["of"]
    return {name for each in branches for name in _matching(each, tally)}


def _leaves(node: Mapping[str, Any]) -> list[str]:
    if "name" in node:
        return [repr(node["name"])]
    if "prefix" in node:
        return [f"'{node['prefix']}*'"]
    branches = node.get("any") or node.get("all") or node["of"]
    return [leaf for each in branches for leaf in _leaves(each)]


# -- words ----------------------------------------------------------------------------------------


def _when(facts: Facts, field: str) -> str:
    """An instant in UTC, and how far it is from the facts' own `now`."""
    at = facts.get(field)
    if at is None:
        return "an unknown time"
    text = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if (now := facts.get("now")) is not None and at > now:
        return f"{text} (in {_span(at - now)})"
    return text


def _span(ms: int) -> str:
    if ms < 1000:
        return f"{ms} ms"
    for unit, length in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * length:
            return f"{ms / length:.0f} {unit}"
    return f"{ms / 1000:.0f} s"


def _state(of: Mapping[str, Any]) -> str:
    """`suspended(signal)`, `canceled(skipped)`, `running`."""
    more = of.get("reason") or (of.get("outcome") if of.get("outcome") != of["state"] else None)
    return f"{of['state']}({more})" if more else str(of["state"])


def _failure(facts: Facts) -> str:
    failure = facts.get("failure")
    return f": {failure['reason']} ({failure['category']})" if failure else ""


def _list(names: Sequence[str]) -> str:
    return _some([repr(name) for name in names], len(names))


def _some(phrases: Sequence[str], count: int, glue: str = ", ") -> str:
    shown = glue.join(phrases[:NAMED])
    more = count - min(len(phrases), NAMED)
    return f"{shown} and {more} more" if more > 0 else shown
