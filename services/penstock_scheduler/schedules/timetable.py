"""Compute when a schedule is due: pure functions of times, in milliseconds since the Unix epoch.

Cron expressions are cronsim's, which follows Debian's cron when the clocks change. A job at a fixed local time runs
once: right after the gap if the change skips its time, at the first occurrence if its time comes twice. A job whose
hour or minute is a wildcard runs by elapsed time: never in the gap, and at both occurrences of a repeated time.
"""

from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from penstock.errors import invalid

SLICE: Final = 50
"""The most missed due times that one step catches up on."""
GRACE_MS: Final = 60_000
"""With misfire `skip`, a due time that passed longer ago than this is skipped."""
MOST_COUNTED: Final = 1000
"""Skipped cron times are counted up to this number, so that a long absence costs little."""


class Rule(NamedTuple):
    """How due times follow one another: by `every_ms` or `cron`. With neither there is a single due time."""

    every_ms: int | None = None
    cron: str | None = None
    timezone: str = "UTC"


class Step(NamedTuple):
    """What to do about the due times so far: those to fire, how many are skipped, and the next due time."""

    fires: list[int]
    skipped: int
    next_at: int | None


def zone(name: str) -> tzinfo:
    """Return the time zone. Raise `invalid_request`, naming `timezone`, if there is none of this name."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise invalid("timezone", f"there is no time zone {name!r}") from None


def following(rule: Rule, after: int) -> int | None:
    """Return the first due time past `after`: a due time itself or, for cron, any instant. None if there is none.

    Raise `invalid_request` for a cron expression that is invalid or never comes true.
    """
    if rule.every_ms is not None:
        return after + rule.every_ms
    return None if rule.cron is None else _cron(rule.cron, zone(rule.timezone), after)


def coming(rule: Rule, next_at: int, most: int) -> list[int]:
    """Return the due times from `next_at` on, at most `most` of them."""
    times: list[int] = []
    at: int | None = next_at
    while at is not None and len(times) < most:
        times.append(at)
        at = following(rule, at)
    return times


def resumed(rule: Rule, next_at: int, now: int) -> int:
    """Return the next due time of a resumed schedule. Times during the pause are dropped, except a single due time."""
    if next_at > now:
        return next_at
    if rule.every_ms is not None:
        return next_at + ((now - next_at) // rule.every_ms + 1) * rule.every_ms
    return next_at if rule.cron is None else _cron(rule.cron, zone(rule.timezone), now)


def step(rule: Rule, due_at: int, now: int, *, misfire: str, left: int | None = None) -> Step:
    """Decide on the due times from `due_at` to `now`. `left`: how many executions the schedule may still create."""
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
    """Fire only the latest due time that has come, unless it came longer than GRACE_MS ago."""
    latest, missed = due_at, 0
    if rule.every_ms is not None:
        missed = (now - due_at) // rule.every_ms
        latest += missed * rule.every_ms
    else:
        while (after := following(rule, latest)) is not None and after <= now:
            missed += 1
            latest = after
            if missed == MOST_COUNTED:  # a long absence: jump to the first time in the last minute
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
            # cronsim returns the first occurrence of a repeated local time, which may have passed.
            if at > after:
                return at
    except CronSimError as error:
        raise invalid("cron", str(error)) from None
    except (OverflowError, ValueError):
        pass
    raise invalid("cron", f"{expression!r} never comes true")
