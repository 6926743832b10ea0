"""`penstock bulk …`: change all executions that match a filter, in the background."""

from typing import Annotated, Literal, cast

from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import clock, emit, emit_json, encoded, facts, listing, styled
from penstock.cli.shell import Shell, ShellArgument, json_argument
from penstock.cli.spec import pair
from penstock.cli.wanted import ANYTHING, Wanted
from penstock.messages.common import Page
from penstock.messages.search import Bulk, BulkStatus

app = App(name="bulk", help="Change all executions that match a filter, in the background.")
Action = Literal[
    "cancel", "replay", "suspend", "resume", "run-now", "change-priority", "set-tags", "revoke", "signal"
]


@app.command
async def start(
    action: Action,
    /,
    *,
    wanted: Wanted = ANYTHING,
    reason: str = "",
    grace_ms: int | None = None,
    priority: int | None = None,
    set: Annotated[list[str], Parameter(negative="")] = [],  # noqa: B006 - cyclopts copies it
    name: str | None = None,
    payload: str | None = None,
    key: str | None = None,
    rate: int | None = None,
    most: int | None = None,
    idempotency_key: str | None = None,
    shell: ShellArgument,
) -> None:
    """Begin to change all executions that match now; prints the id of the change. Without a filter, all match.

    penstock bulk start replay --state failed --kind mail.send --rate 20
    penstock bulk start signal --state suspended --kind order --name approved --payload '{"by": "ops"}'

    Parameters
    ----------
    action
        What is done to each.
    reason
        Why, for cancel, suspend, resume, revoke and signal; it is kept in the audit trail.
    grace_ms
        For cancel: how long a running handler has to stop, in milliseconds.
    priority
        For change-priority: -128 to 127, higher first.
    set
        For set-tags: NAME=VALUE, added to the tags that are there; may be given several times.
    name
        For signal: the signal's name.
    payload
        For signal: its payload, as JSON; @FILE reads it from a file, - from standard input. At most 64 KiB.
    key
        For signal: the waitpoint's key, where an execution has several.
    rate
        At most so many a second [100].
    most
        Stop after so many [all].
    idempotency_key
        Repeating the command with the same key returns the first id.
    """
    request = {
        "filter": wanted.filter(),
        "action": action.replace("-", "_"),
        "reason": reason or None,
        "grace_ms": grace_ms,
        "priority": priority,
        "tags": dict(pair(each, "--set") for each in set) or None,
        "name": name,
        "payload": json_argument(payload, "--payload"),
        "waitpoint_key": key,
        "rate": rate,
        "most": most,
        "idempotency_key": idempotency_key,
    }
    made = cast(Bulk, await shell.ask("execution.bulk", request))
    emit_json(made) if shell.json else emit(made.bulk_id)


@app.command
async def get(bulk_id: str, /, *, shell: ShellArgument) -> None:
    """Show a bulk change and how far it is.

    Parameters
    ----------
    bulk_id
        The change's id.
    """
    await _show(shell, "bulk.get", bulk_id)


@app.command(name="list")
async def list_(
    *, status: BulkStatus | None = None, limit: int = 100, cursor: str | None = None, shell: ShellArgument
) -> None:
    """List bulk changes, newest first.

    Parameters
    ----------
    status
        Of this status only.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"status": status, "limit": limit, "cursor": cursor}
    page = cast(Page[Bulk], await shell.ask("bulk.list", request))
    rows = (
        (
            each.bulk_id,
            each.action,
            styled(each.status),
            str(each.done),
            str(each.refused),
            clock(each.created_at),
            escape(encoded(each.filter, pretty=False)),
        )
        for each in page.items
    )
    shell.show_page(page, listing(("id", "action", "status", "done", "refused", "begun", "filter"), rows))


@app.command
async def stop(bulk_id: str, /, *, shell: ShellArgument) -> None:
    """Stop a bulk change. What it has done stays done.

    Parameters
    ----------
    bulk_id
        The change's id.
    """
    await _show(shell, "bulk.stop", bulk_id)


async def _show(shell: Shell, verb: str, bulk_id: str) -> None:
    found = cast(Bulk, await shell.ask(verb, {"bulk_id": bulk_id}))
    told = {
        "bulk": found.bulk_id,
        "action": found.action,
        "signal": found.name or "",
        "status": styled(found.status),
        "done": str(found.done),
        "refused": str(found.refused) if found.refused else "",
        "last error": str((found.last_error or {}).get("message", "")),
        "looked at": str(found.looked),
        "by": found.by or "",
        "begun": clock(found.created_at),
        "ended": clock(found.finished_at),
    }
    shell.show(
        found, facts({name: value if name == "status" else escape(value) for name, value in told.items()})
    )
