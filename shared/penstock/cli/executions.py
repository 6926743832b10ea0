"""`penstock submit, get, list, cancel, signal`: commands on executions."""

import re
import sys
from typing import Annotated, Any, cast

import msgspec
from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import clock, emit, emit_json, encoded, facts, listing, payload, styled
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import STDIN, Shell, ShellArgument, TextOrDash, json_argument, until
from penstock.cli.spec import NOTHING_SAID, Spec
from penstock.ids import ID_PATTERN
from penstock.messages.common import Page, Record
from penstock.messages.executions import ExecutionCreated
from penstock.messages.signals import Delivered
from penstock.states import TERMINAL, ExecutionState


def add_to(app: App) -> None:
    app.command(submit)
    app.command(get)
    app.command(list_, name="list")
    app.command(cancel)
    app.command(signal)


async def submit(
    kind: str,
    input: str | None = None,
    /,
    *,
    spec: Spec = NOTHING_SAID,
    idempotency_key: str | None = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    wait_s: float | None = None,
    shell: ShellArgument,
) -> None:
    """Submit an execution; prints its id, or with --wait its result.

    penstock submit mail.send '{"to": "a@example.com"}' --max-attempts 5 --wait

    Parameters
    ----------
    kind
        What is to be done: the name of a worker's handler.
    input
        Its input, as JSON; @FILE reads it from a file, - from standard input.
    idempotency_key
        Repeating the command with the same key and body returns the first id.
    wait
        Wait until the execution has ended and print its result; exit code 1 when it ended without one.
    wait_s
        How many seconds to wait at most; the execution goes on afterwards.
    """
    request: dict[str, Any] = {"kind": kind, **spec.fields()}
    if idempotency_key is not None:
        request["idempotency_key"] = idempotency_key
    if (value := json_argument(input, "INPUT")) is not None:
        request["input"] = value
    async with shell.client() as client:
        created = cast(ExecutionCreated, await client.call("execution.create", request))
        if not wait:
            emit_json(created) if shell.json else emit(created.execution_id)
            return
        with shell.errors.status(f"[dim]{escape(kind)} {created.execution_id}[/]"):
            record = await until(client.run(created.execution_id).wait(), wait_s)
    if shell.json:
        emit_json(record)
    elif record.state == "completed":
        emit(encoded(record.raw_result, pretty=shell.console.is_terminal))
    if record.state != "completed":
        raise Problem(how_it_ended(record))


async def get(execution_id: str, /, *, shell: ShellArgument) -> None:
    """Show an execution in full.

    Parameters
    ----------
    execution_id
        Its id, as `penstock submit` printed it.
    """
    record = cast(Record, await shell.ask("execution.get", {"execution_id": execution_id}))
    shell.show(record, record_facts(record))


async def list_(
    *,
    namespace: str | None = None,
    lane: str | None = None,
    kind: str | None = None,
    state: ExecutionState | None = None,
    flow: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
    shell: ShellArgument,
) -> None:
    """List executions, newest first; all filters must hold.

    Parameters
    ----------
    namespace
        Only of this namespace.
    lane
        Only in this lane.
    kind
        Only of this kind.
    state
        Only in this state.
    flow
        Only the members of this flow.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {
        "namespace": namespace,
        "lane": lane,
        "kind": kind,
        "state": state,
        "flow_id": flow,
        "limit": limit,
        "cursor": cursor,
    }
    page = cast(Page[Record], await shell.ask("execution.list", request))
    rows = (
        (
            each.execution_id,
            clock(each.updated_at),
            styled(each.state, each.reason),
            escape(each.kind) + _unusual(each),
        )
        for each in page.items
    )
    shell.show_page(page, listing(("execution", "updated", "state", "kind"), rows))


async def cancel(
    execution_id: str, /, *, reason: str = "", grace_ms: int | None = None, shell: ShellArgument
) -> None:
    """Cancel an execution; prints its state. A flow is cancelled with `penstock flow cancel`.

    Parameters
    ----------
    execution_id
        The execution's id.
    reason
        Why; it is kept with the execution.
    grace_ms
        How long the worker may take to stop before it loses its lease, in milliseconds [10000].
    """
    request = {"execution_id": execution_id, "reason": reason, "grace_ms": grace_ms}
    reply = await shell.ask("execution.cancel", request)
    state = str(msgspec.to_builtins(reply)["state"])
    told = (
        "its compensations run first"
        if state in ("ready", "suspended", "retry_wait")
        else "its worker was told"
    )
    waits = "" if state in TERMINAL else f" [dim](cancel requested: {told})[/]"
    shell.show(reply, styled(state) + waits)


async def signal(
    token: TextOrDash,
    name: str,
    payload: str | None = None,
    /,
    *,
    source: str | None = None,
    signal_id: str | None = None,
    publish: Annotated[bool, Parameter(negative="")] = False,
    shell: ShellArgument,
) -> None:
    """Send a signal to the waitpoint that the token belongs to; prints the signal's effect.

    Parameters
    ----------
    token
        The waitpoint's token; - reads it from standard input, which keeps it out of the shell's history.
    name
        The signal's name, such as `approved`.
    payload
        The signal's payload, as JSON; @FILE reads it from a file.
    source
        Who sends it.
    signal_id
        A signal sent again with the same id has no further effect.
    publish
        Publish the signal: JetStream keeps it until it is applied, even while no signal-router runs.
    """
    if token == STDIN:
        token = sys.stdin.readline().strip()
    value = json_argument(payload, "PAYLOAD")
    if publish:
        await _publish(shell, token, name, value, signal_id)
        return
    async with shell.client() as client:
        reply: Delivered = await client.signal(
            token, name, value or msgspec.Raw(b"null"), source=source, signal_id=signal_id
        )
    shell.show(reply, reply.effect)


async def _publish(
    shell: Shell, token: str, name: str, value: msgspec.Raw | None, signal_id: str | None
) -> None:
    waitpoint_id = token.split(".")[1] if token.count(".") == 2 else ""
    if not re.match(ID_PATTERN, waitpoint_id):
        raise UsageProblem("TOKEN is no waitpoint's token")
    async with shell.client() as client:
        sent = await client.publish_signal(
            waitpoint_id, name, token, value or msgspec.Raw(b"null"), signal_id=signal_id
        )
    shell.show({"signal_id": sent}, "published")


def _unusual(record: Record) -> str:
    """Return what is unusual about an execution, for a list: another lane, a later attempt."""
    words = [f"in {record.lane}"] if record.lane != "default" else []
    words += [f"attempt {record.attempt_index}"] if record.attempt_index > 1 else []
    return f" [dim]{escape(', '.join(words))}[/]" if words else ""


def how_it_ended(record: Record) -> str:
    """Describe in one line how an execution ended that did not complete."""
    failure = record.failure or {}
    told = f" ({failure.get('category')}): {failure.get('reason')}" if failure else ""
    return f"{record.kind} {record.execution_id} is {record.outcome or record.state}{told}"


def record_facts(record: Record) -> Any:
    """Format an execution for people, without the fields that are not set."""
    lease, progress, failure = record.lease, record.progress, record.failure
    return facts(
        {
            "execution": record.execution_id,
            "kind": escape(record.kind),
            "state": styled(
                record.state, record.reason or (record.outcome if record.outcome != record.state else None)
            ),
            "lane": escape(record.lane) + (f" priority {record.priority}" if record.priority else ""),
            "namespace": "" if record.namespace == "default" else escape(record.namespace),
            "attempt": f"{record.attempt_index} of {record.max_attempts}",
            "reclaims": f"{record.reclaims} of {record.max_reclaims}" if record.reclaims else "",
            "progress": escape(f"{progress['pct']:g} % {progress.get('message') or ''}") if progress else "",
            "failure": escape(f"({failure.get('category')}) {failure.get('reason')}") if failure else "",
            "lease": escape(f"{lease['worker_id']}, until {clock(lease['expires_at'])}") if lease else "",
            "cancel requested": "yes" if record.cancel_requested and record.state not in TERMINAL else "",
            "flow": record.flow_id,
            "parent": record.parent_id,
            "replay of": record.replay_of,
            "forked from": record.forked_from,
            "continues": record.continues,
            "continued by": record.continued_by,
            "version": record.version,
            "journal": _journal(record.journal) if record.journal else "",
            "capabilities": escape(" ".join(record.capabilities)),
            "tags": escape(" ".join(f"{name}={value}" for name, value in record.tags.items())),
            "created": clock(record.created_at),
            "started": clock(record.started_at),
            "ready": clock(record.ready_at) if record.state in ("scheduled", "retry_wait", "ready") else "",
            "deadline": clock(record.deadline_at),
            "finished": clock(record.finished_at),
            "events": str(record.seq),
            "input": escape(payload(record.raw_input)),
            "result": escape(payload(record.raw_result)) if record.state == "completed" else "",
        }
    )


def _journal(size: dict[str, int]) -> str:
    entries = size["entries"]
    return f"{entries} {'entry' if entries == 1 else 'entries'}, {size['bytes']} bytes"
