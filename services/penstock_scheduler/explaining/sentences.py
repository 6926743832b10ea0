"""Explain why an execution does not run now: one reason in a sentence, with advice. A pure function of facts.

The facts come from lua/ops/scheduler/explain.lua; the caller adds `limits` of other partitions and the workers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from penstock.machine.conditions import missing_signals
from penstock.words import some
from penstock_scheduler.explaining.phrases import Facts, Reason, failure_of, state_of, when
from penstock_scheduler.explaining.ready import Worker, ready


def explain(facts: Facts, workers: Sequence[Worker] | None = None) -> dict[str, Any]:
    """Return the reply of execution.explain. `workers`: the registered workers, or None without a registry."""
    if facts["state"] == "ready":
        reason = ready(facts, workers)
    elif facts["state"] == "suspended":
        of = _parked if facts.get("park") else _SUSPENDED.get(facts.get("reason") or "", _unknown)
        reason = of(facts)
    else:
        reason = _STATES[facts["state"]](facts)
    if (ending := facts.get("ending")) is not None:
        reason = reason._replace(
            explanation=f"It ends as {ending} once its compensations have run. {reason.explanation}",
            advice=f"{reason.advice} execution.cancel with grace_ms 0 ends it at once, and undoes nothing.",
        )
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
            f"It is scheduled for {when(facts, 'wake_at')}.",
            "Wait until then, or start it with execution.run_now.",
            {"kind": "time", "at": facts.get("wake_at")},
        )
    if (unique_key := facts.get("unique_key")) is not None:
        return Reason(
            f"It waits for the execution that has its unique_key {unique_key!r} and has begun.",
            "It starts by itself when that one has ended.",
            {"kind": "dependencies", "unique_key": unique_key},
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
    names = some([f"{each['key']!r} ({state_of(each)})" for each in parents], waiting_for["unmet"])
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
        f"Attempt {facts['attempt_index']} of {facts['max_attempts']} failed{failure_of(facts)}; "
        f"the next one is due at {when(facts, 'wake_at')}.",
        "Wait until then, or retry at once with execution.run_now.",
        {"kind": "time", "at": facts.get("wake_at"), "next_attempt": facts["attempt_index"] + 1},
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
    if facts.get("cancel_requested") and not facts.get("ending"):
        stop_by = f" by {when(facts, 'stop_by')}" if facts.get("stop_by") else ""
        return Reason(
            f"It {doing} worker {lease['worker_id']!r}, which was asked to stop{stop_by}.",
            "Nothing: past the grace its lease is revoked.",
            waiting_for,
        )
    return Reason(
        f"It {doing} worker {lease['worker_id']!r}; the lease lasts until "
        f"{when({**lease, 'now': facts['now']}, 'expires_at')} and is renewed while the worker lives.",
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
        limit = f"; at {when(facts, 'wake_at')} it times out ({facts.get('on_timeout')})"
    return Reason(
        f"It waits for {some(missing, len(missing), ' and ')}{key}{limit}.",
        "Deliver the signal with the waitpoint's token (signal.deliver), or cancel it.",
        waiting_for,
    )


def _delay(facts: Facts) -> Reason:
    return Reason(
        f"Its worker delayed it until {when(facts, 'wake_at')}.",
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


_KINDS: Final = {"signal": "signal", "delay": "time", "children": "children"}


def _parked(facts: Facts) -> Reason:
    """Explain what a durable function waits for: the waits that its journal has not seen end."""
    count, waitpoints = facts["park"]["waits"], facts.get("waitpoints") or ()
    phrases = [
        f"{some(missing, len(missing), ' and ')} at waitpoint {each['key']!r}"
        for each in waitpoints
        for missing in [missing_signals(each.get("condition"), each.get("tally") or {})]
    ]
    children = facts.get("children_open") or 0
    if children and facts.get("reason") in ("children", "waits"):
        phrases.append("a child to end" if children == 1 else f"some of its {children} children to end")
    if facts.get("wake_at") is not None:
        phrases.append(f"{when(facts, 'wake_at')} to come")
    glue = " or " if facts["park"]["any"] else " and "
    return Reason(
        f"It waits for {some(phrases, len(phrases), glue) or 'its journal'}.",
        "See the entries that wait with journal.read; execution.resume ends its times and signals.",
        {
            "kind": _KINDS.get(facts.get("reason") or "", "waits"),
            "waits": count,
            "mode": "any" if facts["park"]["any"] else "all",
            "at": facts.get("wake_at"),
            "waitpoint_keys": [each["key"] for each in waitpoints],
            "children_open": children,
        },
    )


def _operator(facts: Facts) -> Reason:
    if hold := facts.get("hold"):
        at = f" at {hold['key']!r}" if hold.get("key") else ""
        why = f": {hold['message']}" if hold.get("message") else ""
        return Reason(
            f"Its worker asks an operator to decide, {hold['code']}{at}{why}.",
            "Deploy code that fits and let it go on with execution.resume, or start anew with execution.fork.",
            {"kind": "operator", "code": hold["code"], "key": hold.get("key")},
        )
    return Reason("An operator holds it.", "Let it go on with execution.resume.", {"kind": "operator"})


def _unknown(facts: Facts) -> Reason:
    return Reason(f"It is {state_of(facts)}.", "See its history with execution.history.", {"kind": "unknown"})


# -- terminal -------------------------------------------------------------------------------------


def _ended(facts: Facts) -> Reason:
    at, replay = when(facts, "finished_at"), "Run it again with execution.replay."
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
        return Reason(f"It was {outcome} at {at}{failure_of(facts)}.", replay, waiting_for)
    tries = f" after {facts['attempt_index']} of {facts['max_attempts']} attempts"
    return Reason(f"It failed at {at}{tries}{failure_of(facts)}.", replay, waiting_for)


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
