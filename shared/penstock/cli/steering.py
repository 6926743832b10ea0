"""`penstock why, replay, run-now, suspend, resume, send, …`: commands on an existing execution."""

from typing import cast

from cyclopts import App
from rich.markup import escape

from penstock.cli.executions import record_facts
from penstock.cli.output import emit, emit_json, styled
from penstock.cli.shell import ShellArgument, json_argument
from penstock.cli.spec import tags
from penstock.messages.common import Record, StateReply
from penstock.messages.control import Explanation, Replayed
from penstock.messages.signals import Delivered


def add_to(app: App) -> None:
    app.command(why)
    app.command(replay)
    app.command(run_now)
    app.command(suspend)
    app.command(resume)
    app.command(send)
    app.command(priority)
    app.command(tag)
    app.command(revoke)


async def why(execution_id: str, /, *, shell: ShellArgument) -> None:
    """Tell why an execution does not run now, and what to do about it.

    Parameters
    ----------
    execution_id
        The execution's id.
    """
    told = cast(Explanation, await shell.ask("execution.explain", {"execution_id": execution_id}))
    advice = f"\n[dim]→[/] {escape(told.advice)}" if told.advice else ""
    shell.show(told, f"{styled(told.state, told.reason)}: {escape(told.explanation)}{advice}")


async def replay(
    execution_id: str,
    input: str | None = None,
    /,
    *,
    idempotency_key: str | None = None,
    shell: ShellArgument,
) -> None:
    """Run an ended execution again, as a new one; prints the new id.

    Parameters
    ----------
    execution_id
        The execution's id; the ended execution stays as it is.
    input
        Another input, as JSON; @FILE reads it from a file, - from standard input.
    idempotency_key
        Repeating the command with the same key returns the first replay's id.
    """
    request = {
        "execution_id": execution_id,
        "input": json_argument(input, "INPUT"),
        "idempotency_key": idempotency_key,
    }
    created = cast(Replayed, await shell.ask("execution.replay", request))
    emit_json(created) if shell.json else emit(created.execution_id)


async def run_now(execution_id: str, /, *, shell: ShellArgument) -> None:
    """Make an execution that waits for a time ready at once: one scheduled, delayed, or before a retry.

    Parameters
    ----------
    execution_id
        The execution's id.
    """
    _state(shell, cast(Record, await shell.ask("execution.run_now", {"execution_id": execution_id})))


async def suspend(execution_id: str, /, *, reason: str = "", shell: ShellArgument) -> None:
    """Suspend a running execution until `penstock resume`; its worker is told to stop.

    Parameters
    ----------
    execution_id
        The execution's id.
    reason
        Why; it is kept with the execution.
    """
    reply = await _steer(shell, "execution.suspend", execution_id, reason)
    shell.show(reply, styled(reply.state, "operator" if reply.state == "suspended" else None))


async def resume(execution_id: str, /, *, reason: str = "", shell: ShellArgument) -> None:
    """Resume a suspended execution, whatever it waits for.

    Parameters
    ----------
    execution_id
        The execution's id.
    reason
        Why; it is kept with the execution.
    """
    reply = await _steer(shell, "execution.resume", execution_id, reason)
    shell.show(reply, styled(reply.state))


async def send(
    execution_id: str,
    name: str,
    payload: str | None = None,
    /,
    *,
    key: str | None = None,
    reason: str = "",
    shell: ShellArgument,
) -> None:
    """Send a signal to an execution, as an operator: it needs no token.

    Parameters
    ----------
    execution_id
        The execution's id.
    name
        The signal's name.
    payload
        The signal's payload, as JSON; @FILE reads it from a file, - from standard input.
    key
        The waitpoint's key, where the execution has several.
    reason
        Why; it is kept in the audit trail.
    """
    request = {
        "execution_id": execution_id,
        "name": name,
        "payload": json_argument(payload, "PAYLOAD"),
        "waitpoint_key": key,
        "reason": reason,
    }
    delivered = cast(Delivered, await shell.ask("signal.send", request))
    shell.show(delivered, f"{delivered.effect} {delivered.signal_id}")


async def priority(execution_id: str, priority: int, /, *, shell: ShellArgument) -> None:
    """Give an execution another priority; its place in the queue follows at once.

    Parameters
    ----------
    execution_id
        The execution's id.
    priority
        -128 to 127, higher first.
    """
    request = {"execution_id": execution_id, "priority": priority}
    _state(shell, cast(Record, await shell.ask("execution.change_priority", request)))


async def tag(execution_id: str, /, *tag: str, shell: ShellArgument) -> None:
    """Replace all tags of an execution.

    Parameters
    ----------
    execution_id
        The execution's id.
    tag
        NAME=VALUE; several may be given, none removes all.
    """
    request = {"execution_id": execution_id, "tags": tags(list(tag))}
    record = cast(Record, await shell.ask("execution.set_tags", request))
    shell.show(record, record_facts(record))


async def revoke(execution_id: str, /, *, reason: str = "", shell: ShellArgument) -> None:
    """Take the lease of an execution away from its worker; another worker gets it, and no attempt is counted.

    Parameters
    ----------
    execution_id
        The execution's id.
    reason
        Why; it is kept with the execution.
    """
    reply = await _steer(shell, "lease.revoke", execution_id, reason)
    shell.show(reply, styled(reply.state))


async def _steer(shell: ShellArgument, verb: str, execution_id: str, reason: str) -> StateReply:
    """Send a verb that takes a reason and replies with the execution's state."""
    return cast(StateReply, await shell.ask(verb, {"execution_id": execution_id, "reason": reason}))


def _state(shell: ShellArgument, record: Record) -> None:
    shell.show(record, styled(record.state, record.reason))
