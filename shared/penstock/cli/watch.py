"""`penstock watch ID`: follow an execution or a flow until it has ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from penstock import errors
from penstock.cli.audit import event_line
from penstock.cli.executions import how_it_ended
from penstock.cli.output import clock, emit, emit_json, encoded, payload
from penstock.cli.problems import Problem
from penstock.cli.shell import Shell, ShellArgument
from penstock.client import AuditEvent, Client, EventStream
from penstock.messages.common import Record
from penstock.messages.executions import ExecutionEvent
from penstock.messages.flows import Flow
from penstock.states import FLOW_TERMINAL, TERMINAL

LOOK_AGAIN_S: Final = 0.5
"""Longest time between two reads of the record: progress makes few events, and an event may be lost."""
LAST_FRAMES_S: Final = 5.0
"""How long to wait for the last frames after the execution has ended, in seconds."""


async def watch(id: str, /, *, shell: ShellArgument) -> None:
    """Follow an execution or a flow until it has ended; exit code 1 unless it completed or finished.

    Shows its events, its progress, and the frames of its worker. With --json, one event or frame per line, and
    at the end the whole record.

    Parameters
    ----------
    id
        The id of an execution or of a flow.
    """
    async with shell.client() as client:
        try:
            record = await client.get(id)
        except errors.NotFoundError:
            flow = await client.flows.run(id).get()
            _end_of_flow(shell, await _follow_flow(shell, client, flow))
        else:
            _end_of_execution(shell, await _follow_execution(shell, client, record))


async def _follow_execution(shell: Shell, client: Client, record: Record) -> Record:
    execution_id, told, said = record.execution_id, 0, None
    with _bar(shell) as progress:
        frames = asyncio.create_task(_tell_frames(shell, progress, client, execution_id))
        bar = progress.add_task("", total=100)
        async with client.events(entity="execution", id=execution_id) as events:
            async for _ in _moments(events):
                record = await client.get(execution_id)
                if record.seq > told:  # print from the history, which has all events in order
                    async for event in client.history(execution_id):
                        if event.seq > told:
                            told = event.seq
                            _tell(shell, progress, _as_audit(execution_id, event))
                now = record.progress or {}
                text = f"{record.kind} {record.state} {now.get('message') or ''}"
                progress.update(bar, completed=now.get("pct", 0), description=escape(text))
                if progress.disable and not shell.json and now and now != said:
                    said = now
                    progress.console.print(f"{now['pct']:g} % {escape(now.get('message') or '')}")
                if record.state in TERMINAL:
                    break
        with contextlib.suppress(errors.PenstockError, TimeoutError):  # without them all else is still true
            await asyncio.wait_for(frames, LAST_FRAMES_S)
    return record


async def _tell_frames(shell: Shell, progress: Progress, client: Client, execution_id: str) -> None:
    """Print the worker's frames until the execution has ended."""
    async for frame in client.frames(execution_id, follow=True):
        if shell.json:
            emit(encoded(frame, pretty=False))
        else:
            body = encoded(frame.raw_payload, pretty=False)
            text = f"[dim]{clock(frame.at)}[/] {escape(frame.frame_type)} {escape(body)}"
            progress.console.print(text, soft_wrap=True, highlight=False)


def _end_of_execution(shell: Shell, record: Record) -> None:
    if shell.json:
        emit_json(record)
    elif record.state == "completed":
        emit(encoded(record.raw_result, pretty=shell.console.is_terminal))
    if record.state != "completed":
        raise Problem(how_it_ended(record))


async def _follow_flow(shell: Shell, client: Client, flow: Flow) -> Flow:
    handle = client.flows.run(flow.flow_id)
    with _bar(shell) as progress:
        bar = progress.add_task("", total=None)
        async with client.events(entity="flow", id=flow.flow_id) as events:
            async for event in _moments(events):
                if event is not None:
                    _tell(shell, progress, event)
                flow = await handle.get()
                done, total = _done_of(flow)
                text = f"{flow.goal or flow.flow_id} {flow.status}"
                progress.update(bar, completed=done, total=total, description=escape(text))
                if flow.status in FLOW_TERMINAL:
                    break
    return flow


def _end_of_flow(shell: Shell, flow: Flow) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in flow.counts.items() if count)
    emit_json(flow) if shell.json else emit(f"{flow.status}: {counts or payload(flow.raw_state)}")
    if flow.status != "finished":
        raise Problem(f"flow {flow.flow_id} is {flow.status}")


def _done_of(flow: Flow) -> tuple[int, int | None]:
    ended = {"completed", "failed", "canceled", "skipped", "succeeded", "cancelled"}
    total = sum(flow.counts.values())
    return sum(count for state, count in flow.counts.items() if state in ended), total or None


async def _moments(events: EventStream) -> AsyncIterator[AuditEvent | None]:
    """Yield None at once, then each event, and None whenever none comes for LOOK_AGAIN_S."""
    yield None
    while True:
        event: AuditEvent | None = None
        with contextlib.suppress(TimeoutError):
            event = await events.next(LOOK_AGAIN_S)
        yield event


def _tell(shell: Shell, progress: Progress, event: AuditEvent) -> None:
    if shell.json:
        emit(msgspec.json.encode(event).decode())
    else:
        progress.console.print(event_line(event, with_id=False), soft_wrap=True, highlight=False)


def _as_audit(execution_id: str, event: ExecutionEvent) -> AuditEvent:
    """Convert a history event to an audit event, so that both are printed the same way."""
    fields: dict[str, Any] = msgspec.structs.asdict(event)
    return AuditEvent(event_id="", namespace="", entity="execution", id=execution_id, **fields)


def _bar(shell: Shell) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        console=shell.console,
        transient=True,
        disable=shell.json or not shell.console.is_terminal,
    )
