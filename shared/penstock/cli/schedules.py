"""`penstock schedule …`: schedules that create executions at due times."""

from datetime import datetime, timedelta
from typing import Any, Literal, cast

import msgspec
from cyclopts import App
from rich.markup import escape

from penstock.cli.limits import milliseconds
from penstock.cli.output import clock, emit, emit_json, facts, listing, payload, styled
from penstock.cli.problems import UsageProblem
from penstock.cli.shell import Shell, ShellArgument, json_argument
from penstock.cli.spec import NOTHING_SAID, Spec
from penstock.messages.common import Page
from penstock.messages.schedules import DueTimes, Schedule, ScheduleStatus, ScheduleTriggered

app = App(name="schedule", help="Create and show schedules: executions that are created at their time.")


@app.command
async def create(
    kind: str,
    input: str | None = None,
    /,
    *,
    at: datetime | None = None,
    every: timedelta | None = None,
    count: int | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    misfire: Literal["catch_up", "skip"] | None = None,
    spec: Spec = NOTHING_SAID,
    idempotency_key: str | None = None,
    shell: ShellArgument,
) -> None:
    """Create a schedule, with one of --at, --every and --cron; prints its id.

    penstock schedule create report --cron '0 6 * * 1-5' --timezone Europe/Berlin

    Parameters
    ----------
    kind
        What is to be done: the name of a worker's handler.
    input
        Its input, as JSON; @FILE reads it from a file, - from standard input.
    at
        Once, at this time: 2026-05-01T06:00, in local time unless it says otherwise (+02:00).
    every
        Repeatedly, such as 90s, 15m, 1d; the first time after one interval.
    count
        With --every: how many executions in all.
    cron
        At the times of a cron expression.
    timezone
        The time zone of the cron expression [UTC].
    misfire
        What happens to due times at which no scheduler ran: catch_up makes up for each, skip for none but the
        latest [catch_up].
    idempotency_key
        Repeating the command with the same key and body returns the first id.
    """
    if sum(given is not None for given in (at, every, cron)) != 1:
        raise UsageProblem("a schedule needs one of --at, --every and --cron")
    execution: dict[str, Any] = {"kind": kind, **spec.fields()}
    if (value := json_argument(input, "INPUT")) is not None:
        execution["input"] = value
    request = {
        "execution": execution,
        "at": None if at is None else round(at.timestamp() * 1000),
        "every_ms": milliseconds(every),
        "count": count,
        "cron": cron,
        "timezone": timezone,
        "misfire": misfire,
        "idempotency_key": idempotency_key,
    }
    made = cast(Schedule, await shell.ask("schedule.create", request))
    emit_json(made) if shell.json else emit(made.schedule_id)


@app.command
async def get(schedule_id: str, /, *, shell: ShellArgument) -> None:
    """Show a schedule: when it is due, and what it has created.

    Parameters
    ----------
    schedule_id
        The schedule's id.
    """
    await _ask(shell, "schedule.get", schedule_id)


@app.command(name="list")
async def list_(
    *,
    namespace: str | None = None,
    status: ScheduleStatus | None = None,
    limit: int = 50,
    cursor: str | None = None,
    shell: ShellArgument,
) -> None:
    """List schedules, newest first; all filters must hold.

    Parameters
    ----------
    namespace
        Only of this namespace.
    status
        Only those with this status.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"namespace": namespace, "status": status, "limit": limit, "cursor": cursor}
    page = cast(Page[Schedule], await shell.ask("schedule.list", request))
    rows = (
        (
            each.schedule_id,
            styled(each.status),
            clock(each.next_at),
            str(each.fired),
            escape(_rhythm(each)),
            escape(each.execution.kind),
        )
        for each in page.items
    )
    shell.show_page(page, listing(("schedule", "status", "next", "fired", "when", "kind"), rows))


@app.command
async def times(schedule_id: str, /, *, limit: int = 20, shell: ShellArgument) -> None:
    """Show the next due times of a schedule, as they are if nothing changes.

    Parameters
    ----------
    schedule_id
        The schedule's id.
    limit
        How many at most, up to 100.
    """
    request = {"schedule_id": schedule_id, "limit": limit}
    found = cast(DueTimes, await shell.ask("schedule.times", request))
    shell.show(found, listing(("due",), ((clock(at),) for at in found.times)))


@app.command
async def pause(schedule_id: str, /, *, shell: ShellArgument) -> None:
    """Pause a schedule: due times have no effect until it is resumed.

    Parameters
    ----------
    schedule_id
        The schedule's id.
    """
    await _ask(shell, "schedule.pause", schedule_id)


@app.command
async def resume(schedule_id: str, /, *, shell: ShellArgument) -> None:
    """Resume a paused schedule from its next due time.

    Parameters
    ----------
    schedule_id
        The schedule's id.
    """
    await _ask(shell, "schedule.resume", schedule_id)


@app.command
async def trigger(schedule_id: str, /, *, idempotency_key: str | None = None, shell: ShellArgument) -> None:
    """Create one of a schedule's executions now, beside its due times; prints the execution's id.

    Parameters
    ----------
    schedule_id
        The schedule's id. It may be paused.
    idempotency_key
        Repeating the command with the same key creates nothing more.
    """
    request = {"schedule_id": schedule_id, "idempotency_key": idempotency_key}
    made = cast(ScheduleTriggered, await shell.ask("schedule.trigger", request))
    emit_json(made) if shell.json else emit(made.execution_id)


@app.command
async def update(
    schedule_id: str,
    input: str | None = None,
    /,
    *,
    at: datetime | None = None,
    every: timedelta | None = None,
    count: int | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    misfire: Literal["catch_up", "skip"] | None = None,
    spec: Spec = NOTHING_SAID,
    shell: ShellArgument,
) -> None:
    """Change a schedule; what is left out stays. One of --at, --every and --cron replaces its timing as a whole.

    Parameters
    ----------
    schedule_id
        The schedule's id.
    input
        The new input of its executions, as JSON; @FILE reads it from a file, - from standard input.
    at
        Once, at this time: 2026-05-01T06:00, in local time unless it says otherwise (+02:00).
    every
        Repeatedly, such as 90s, 15m, 1d; the first time after one interval from now.
    count
        With --every: how many executions in all, with those that it has created already.
    cron
        At the times of a cron expression.
    timezone
        The time zone of the cron expression [UTC].
    misfire
        What happens to due times at which no scheduler ran: catch_up or skip.
    """
    request: dict[str, Any] = {
        "schedule_id": schedule_id,
        "at": None if at is None else round(at.timestamp() * 1000),
        "every_ms": milliseconds(every),
        "count": count,
        "cron": cron,
        "timezone": timezone,
        "misfire": misfire,
    }
    changed = spec.fields()
    if (value := json_argument(input, "INPUT")) is not None:
        changed["input"] = value
    if changed:
        present = cast(Schedule, await shell.ask("schedule.get", {"schedule_id": schedule_id}))
        spec_now = msgspec.json.decode(msgspec.json.encode(present.execution), type=dict[str, msgspec.Raw])
        request["execution"] = spec_now | changed
    await _ask(shell, "schedule.update", schedule_id, request)


@app.command
async def delete(schedule_id: str, /, *, shell: ShellArgument) -> None:
    """Delete a schedule; executions that it has created go on.

    Parameters
    ----------
    schedule_id
        The schedule's id.
    """
    await _ask(shell, "schedule.delete", schedule_id)


async def _ask(shell: Shell, verb: str, schedule_id: str, request: dict[str, Any] | None = None) -> None:
    found = cast(Schedule, await shell.ask(verb, request or {"schedule_id": schedule_id}))
    told = {
        "schedule": found.schedule_id,
        "status": styled(found.status),
        "when": escape(_rhythm(found)),
        "misfire": found.misfire,
        "next": clock(found.next_at),
        "fired": str(found.fired),
        "missed": f"{found.missed}, last {clock(found.missed_at)}" if found.missed else "",
        "last": f"{clock(found.last_due_at)} {found.last_execution_id or ''}" if found.last_due_at else "",
        "kind": escape(found.execution.kind),
        "lane": escape(found.execution.lane),
        "input": escape(payload(found.execution.raw_input)),
        "namespace": "" if found.namespace == "default" else escape(found.namespace),
    }
    shell.show(found, facts(told))


def _rhythm(schedule: Schedule) -> str:
    if schedule.cron is not None:
        return f"{schedule.cron} ({schedule.timezone})"
    if schedule.every_ms is not None:
        most = f", {schedule.count} times" if schedule.count else ""
        return f"every {timedelta(milliseconds=schedule.every_ms)}{most}"
    return "once"
