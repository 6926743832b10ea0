"""`penstock lane …`: show queues, their depth and what happened in them, and pause, resume or drain a whole queue."""

from collections.abc import Iterable
from typing import Any, cast

from cyclopts import App
from rich.markup import escape

from penstock.cli.output import age, clock, listing, styled
from penstock.cli.shell import Shell, ShellArgument
from penstock.messages.common import Page
from penstock.messages.executions import Lane
from penstock.messages.statistics import Counts, LaneStats, Latency

app = App(name="lane", help="Show lanes (queues), pause them, drain them.")

HELD = ("leased", "running")
WAITING = ("scheduled", "retry_wait")


@app.command(name="list")
async def list_(*, limit: int = 100, cursor: str | None = None, shell: ShellArgument) -> None:
    """List lanes: their status, the number of executions in each state, and how long the oldest has been ready.

    Parameters
    ----------
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    page = cast(Page[Lane], await shell.ask("lane.list", {"limit": limit, "cursor": cursor}))
    shell.show_page(page, table(page.items))


@app.command
async def pause(lane: str, /, *, reason: str = "", shell: ShellArgument) -> None:
    """Pause a lane: hand out none of its work until it is resumed. Running executions go on.

    Parameters
    ----------
    lane
        The lane's name.
    reason
        Why; it is kept in the audit trail.
    """
    await _change(shell, "lane.pause", lane, reason)


@app.command
async def resume(lane: str, /, *, reason: str = "", shell: ShellArgument) -> None:
    """Resume a paused or draining lane.

    Parameters
    ----------
    lane
        The lane's name.
    reason
        Why; it is kept in the audit trail.
    """
    await _change(shell, "lane.resume", lane, reason)


@app.command
async def drain(lane: str, /, *, reason: str = "", shell: ShellArgument) -> None:
    """Drain a lane: refuse new work, and hand out the work it has.

    Parameters
    ----------
    lane
        The lane's name.
    reason
        Why; it is kept in the audit trail.
    """
    await _change(shell, "lane.drain", lane, reason)


@app.command
async def stats(lane: str | None = None, /, *, minutes: int = 15, shell: ShellArgument) -> None:
    """Show what has happened in a lane (without LANE: in all), minute by minute, and how long it took.

    Parameters
    ----------
    lane
        The lane's name.
    minutes
        How many minutes to list, up to 1440.
    """
    found = cast(LaneStats, await shell.ask("lane.stats", {"lane": lane, "minutes": minutes}))
    rows = [
        *(_counted(clock(each.at)[:-7], each) for each in found.minutes),
        _counted("15 min", found.last_15m),
        _counted("24 h", found.last_24h),
    ]
    columns = (
        "",
        "created",
        "completed",
        "failed",
        "canceled",
        "retried",
        "lost",
        "wait p50, p95",
        "run p50, p95",
    )
    shell.show(found, listing(columns, rows))


def _counted(when: str, counts: Counts) -> tuple[str, ...]:
    numbers = (
        counts.created,
        counts.completed,
        counts.failed,
        counts.canceled,
        counts.retried,
        counts.reclaimed,
    )
    return (when, *map(str, numbers), _latency(counts.wait), _latency(counts.run))


def _latency(of: Latency) -> str:
    return f"{age(of.p50)}, {age(of.p95)}" if of.count else ""


async def _change(shell: Shell, verb: str, name: str, reason: str) -> None:
    lane = cast(Lane, await shell.ask(verb, {"lane": name, "reason": reason or None}))
    shell.show(lane, styled(lane.status))


def table(lanes: Iterable[Lane]) -> Any:
    """Format lanes as a table for people."""
    columns = ("lane", "status", "ready", "running", "waiting", "suspended", "completed", "failed", "oldest")
    return listing(columns, (row(lane) for lane in lanes))


def row(lane: Lane) -> tuple[str, ...]:
    """Return a lane's cells: name, status, the number of executions by state, the age of the oldest ready one."""
    counts = (
        count(lane, "ready"),
        count(lane, *HELD),
        count(lane, *WAITING),
        count(lane, "suspended"),
        count(lane, "completed"),
        count(lane, "failed"),
    )
    cells = (str(number) if number else "[dim]0[/]" for number in counts)
    return (escape(lane.lane), styled(lane.status), *cells, age(lane.oldest_ready_age_ms))


def count(lane: Lane, *states: str) -> int:
    """Count a lane's executions in these states."""
    return sum(lane.depth.get(state, 0) for state in states)
