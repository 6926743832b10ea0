"""When a schedule is due: pure functions of times, in milliseconds since the Unix epoch.

Cron is cronsim's, which does as Debian's does. Around a change of the clocks: a job at a fixed local time that the
change skips runs right after the gap, once; one whose local time comes twice runs the first time only. Jobs whose
hour or minute is a wildcard run by elapsed time: nothing in the gap, and both times what comes twice.
"""

from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from penstock.errors import invalid

SLICE: Final = 50
"""Due times that are made up for in one step."""
GRACE_MS: Final = 60_000
"""With `skip`, a due time that is later than this is not made up for."""
MOST_COUNTED: Final = 1000
"""Skipped cron times are counted up to here."""


class Rule(NamedTuple):
    """How due times follow one another: `every_ms` or `cron`; neither: there is only one."""

    every_ms: int | None = None
    cron: str | None = None
    timezone: str = "UTC"


class Step(NamedTuple):
    """What is to be done about the due times until now."""

    fires: list[int]
    skipped: int
    next_at: int | None


def zone(name: str) -> tzinfo:
    """Raises `invalid_request`, naming `timezone`."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise invalid("timezone", f"there is no time zone {name!r}") from None


def following(rule: Rule, after: int) -> int | None:
    """The first due time past `after`, which is one itself, or for cron any time.

    Raises `invalid_request` for a cron expression that is none, or that never comes true.
    """
    if rule.every_ms is not None:
        return after + rule.every_ms
    return None if rule.cron is None else _cron(rule.cron, zone(rule.timezone), after)


def resumed(rule: Rule, next_at: int, now: int) -> int:
    """From where a paused schedule goes on: times that passed meanwhile are left out. A single one is not."""
    if next_at > now:
        return next_at
    if rule.every_ms is not None:
        return next_at + ((now - next_at) // rule.every_ms + 1) * rule.every_ms
    return next_at if rule.cron is None else _cron(rule.cron, zone(rule.timezone), now)


def step(rule: Rule, due_at: int, now: int, *, misfire: str, left: int | None = None) -> Step:
    """From a due time that has come. `left`: how many executions it may still create."""
    if misfire == "catch_up":
        result = _catch_up(rule, due_at, now, min(SLICE, left if left is not None else SLICE))
    else:
        result = _skip(rule, due_at, now)
    if left is not None and len(result.fires) >= left:
        return result._replace(next_at=None)
    return result


def _catch_up(rule: Rule, due_at: int, now: int, most: int) -> Step:
    fires: list[int] = []
    at: int | None = due_at
    while at is not None and at <= now and len(fires) < most:
        fires.append(at)
        at = following(rule, at)
    return Step(fires, 0, at)


def _skip(rule: Rule, due_at: int, now: int) -> Step:
    """Only the latest of the times that have come counts, unless it is too late for that one too."""
    latest, missed = due_at, 0
    if rule.every_ms is not None:
        missed = (now - due_at) // rule.every_ms
        latest += missed * rule.every_ms
    else:
        while (after := following(rule, latest)) is not None and after <= now:
            missed += 1
            latest = after
            if missed == MOST_COUNTED:  # a long absence: the latest one only
                latest = max(latest, _cron(rule.cron or "", zone(rule.timezone), now - GRACE_MS - 1))
                break
    if latest > now:  # none in the last minute
        return Step([], missed + 1, latest)
    if now - latest > GRACE_MS:
        return Step([], missed + 1, following(rule, latest))
    return Step([latest], missed, following(rule, latest))


def _cron(expression: str, where: tzinfo, after: int) -> int:
    try:
        times = CronSim(expression, datetime.fromtimestamp(after / 1000, where))
        for time in times:
            at = round(time.timestamp() * 1000)
            # A local time that comes twice is given as its first, which may have passed.
            if at > after:
                return at
    except CronSimError as error:
        raise invalid("cron", str(error)) from None
    except (OverflowError, ValueError):
        pass
    raise invalid("cron", f"{expression!r} never comes true")
