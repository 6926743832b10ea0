"""Phrases that explanations are built from."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from penstock.words import some

Facts = Mapping[str, Any]


class Reason(NamedTuple):
    """What holds an execution back: `explanation` and `advice` for people, `waiting_for` for programs."""

    explanation: str
    advice: str
    waiting_for: dict[str, Any]


def when(facts: Facts, field: str) -> str:
    """Format an instant in UTC, with its distance from the facts' own `now` if it is in the future."""
    at = facts.get(field)
    if at is None:
        return "an unknown time"
    text = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if (now := facts.get("now")) is not None and at > now:
        return f"{text} (in {span(at - now)})"
    return text


def span(ms: int) -> str:
    if ms < 1000:
        return f"{ms} ms"
    for unit, length in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * length:
            return f"{ms / length:.0f} {unit}"
    return f"{ms / 1000:.0f} s"


def state_of(of: Mapping[str, Any]) -> str:
    """Format a state with its reason or outcome: `suspended(signal)`, `canceled(skipped)`, `running`."""
    more = of.get("reason") or (of.get("outcome") if of.get("outcome") != of["state"] else None)
    return f"{of['state']}({more})" if more else str(of["state"])


def failure_of(facts: Facts) -> str:
    failure = facts.get("failure")
    return f": {failure['reason']} ({failure['category']})" if failure else ""


def quoted(names: Sequence[str]) -> str:
    return some([repr(name) for name in names], len(names))
