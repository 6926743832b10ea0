"""`penstock waitpoint …`: where executions wait for signals, what has arrived there, and the key that signs tokens."""

from datetime import timedelta
from typing import cast

from cyclopts import App
from rich.markup import escape

from penstock.cli.limits import milliseconds
from penstock.cli.output import clock, encoded, facts, listing, styled
from penstock.cli.shell import Shell, ShellArgument
from penstock.messages.common import Page
from penstock.messages.signals import KeptSignal, SecretRotated, Waitpoint, WaitpointStatus

app = App(name="waitpoint", help="Show where executions wait for signals, and what has arrived there.")


@app.command(name="list")
async def list_(
    execution_id: str | None = None,
    /,
    *,
    namespace: str | None = None,
    status: WaitpointStatus | None = None,
    limit: int = 50,
    cursor: str | None = None,
    shell: ShellArgument,
) -> None:
    """List the waitpoints of an execution, or else of a namespace, newest first, with what each still needs.

    Parameters
    ----------
    execution_id
        Only those of this execution.
    namespace
        Without an execution: those of this namespace [default].
    status
        Only those with this status: pending (nobody waits yet), active (its execution waits) or closed.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {
        "execution_id": execution_id,
        "namespace": namespace,
        "status": status,
        "limit": limit,
        "cursor": cursor,
    }
    page = cast(Page[Waitpoint], await shell.ask("waitpoint.list", request))
    rows = (
        (
            each.waitpoint_id,
            each.execution_id,
            styled(each.status),
            escape(each.waitpoint_key),
            clock(each.expires_at),
            escape(_missing(each)),
        )
        for each in page.items
    )
    columns = ("waitpoint", "execution", "status", "key", "until", "still needs")
    shell.show_page(page, listing(columns, rows))


@app.command
async def get(waitpoint_id: str, /, *, shell: ShellArgument) -> None:
    """Show a waitpoint: its condition, and what has arrived. Its token is never shown.

    Parameters
    ----------
    waitpoint_id
        The waitpoint's id.
    """
    await _show(shell, "waitpoint.get", {"waitpoint_id": waitpoint_id})


@app.command
async def signals(
    waitpoint_id: str, /, *, limit: int = 100, cursor: str | None = None, shell: ShellArgument
) -> None:
    """List the signals that a waitpoint keeps, in the order of their arrival.

    Parameters
    ----------
    waitpoint_id
        The waitpoint's id.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"waitpoint_id": waitpoint_id, "limit": limit, "cursor": cursor}
    page = cast(Page[KeptSignal], await shell.ask("signal.list", request))
    rows = (
        (
            clock(each.at),
            escape(each.name),
            escape(each.source or ""),
            "yes" if each.satisfied else "",
            escape(encoded(each.raw_payload, pretty=False)),
        )
        for each in page.items
    )
    shell.show_page(page, listing(("at", "name", "source", "satisfied", "payload"), rows))


@app.command
async def close(waitpoint_id: str, /, *, reason: str = "", shell: ShellArgument) -> None:
    """Close a pending waitpoint: signals to it are refused from now on.

    Parameters
    ----------
    waitpoint_id
        The waitpoint's id.
    reason
        Why; it is kept in the audit trail.
    """
    await _show(shell, "waitpoint.close", {"waitpoint_id": waitpoint_id, "reason": reason})


@app.command
async def rotate_secret(*, grace: timedelta | None = None, shell: ShellArgument) -> None:
    """Sign new tokens with a new key, from now on and in every signal-router.

    Parameters
    ----------
    grace
        How long tokens signed with the old key stay valid, such as 2h [1 day].
    """
    request = {"grace_ms": milliseconds(grace)}
    rotated = cast(SecretRotated, await shell.ask("waitpoint.rotate_secret", request))
    told = {
        "key": rotated.key_id,
        "before": rotated.previous_key_id,
        "valid until": clock(rotated.previous_valid_until),
    }
    shell.show(rotated, facts(told))


async def _show(shell: Shell, verb: str, request: dict[str, str]) -> None:
    found = cast(Waitpoint, await shell.ask(verb, request))
    told = {
        "waitpoint": found.waitpoint_id,
        "execution": found.execution_id,
        "status": styled(found.status),
        "key": escape(found.waitpoint_key),
        "condition": found.condition,
        "received": found.received,
        "still needs": escape(_missing(found)),
        "created": clock(found.created_at),
        "until": clock(found.expires_at),
    }
    shell.show(found, facts(told))


def _missing(waitpoint: Waitpoint) -> str:
    return ", ".join(waitpoint.missing) if waitpoint.status != "closed" else ""
