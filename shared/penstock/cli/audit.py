"""`penstock audit …`: print and verify the audit trail, read from its stream."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from nats.aio.client import Client as Nats
from nats.js.errors import NotFoundError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from penstock import audit
from penstock.bus.streams import AUDIT, stream_name
from penstock.cli.output import clock, emit, emit_json, styled
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import STDIN, Shell, ShellArgument
from penstock.client import AuditEvent, EventStream

app = App(name="audit", help="Read the audit trail, and prove that it is whole.")


@app.command
async def tail(
    *,
    follow: Annotated[bool, Parameter(alias="-f", negative="")] = False,
    lines: Annotated[int, Parameter(alias="-n")] = 20,
    namespace: str = "*",
    entity: str = "*",
    event: str = "*",
    id: str = "*",
    shell: ShellArgument,
) -> None:
    """Print the newest audit events; with --json in full, one per line.

    Parameters
    ----------
    follow
        Go on with new events until Ctrl-C.
    lines
        How many of the newest matching events to print first.
    namespace
        Only of this namespace.
    entity
        Only of this type: execution, flow, waitpoint, budget, lane, schedule, worker.
    event
        Only this event, such as completed.
    id
        Only of the execution, flow or waitpoint with this id.
    """
    wanted = filters(namespace=namespace, entity=entity, event=event, id=id)
    async with shell.client() as client:
        live: EventStream | None = None
        if follow:  # subscribe before reading the past, so that no event is missed between the two
            live = client.events(namespace, entity, event, id)
            await live.open()
        seen: set[str] = set()
        for past in await newest(client.nats, shell.root, wanted, lines):
            seen.add(past.event_id)
            print_event(shell, past)
        if live is not None:
            async for now in live:
                if now.event_id not in seen:
                    print_event(shell, now)


def filters(**given: str) -> dict[str, str]:
    """Return the filters that leave something out: `*` leaves out nothing."""
    return {name: value for name, value in given.items() if value != "*"}


@app.command
async def verify(file: Path | None = None, /, *, shell: ShellArgument) -> None:
    """Check the hash chain through the whole audit stream, or an exported file: nothing removed, reordered or edited.

    Exit code 0 when the chain is whole. Keep the last hash elsewhere to see later whether the end was cut off.

    Parameters
    ----------
    file
        A file of `audit export`, verified without a server; `-` means standard input.
    """
    report = await on_stream(shell) if file is None else on_file(shell, file)
    if shell.json:
        emit_json({"ok": report.ok, **msgspec.structs.asdict(report)})
    elif report.ok:
        shell.console.print(f"[green]✓[/] {escape(report.sentence())}", soft_wrap=True, highlight=False)
    else:
        for problem in report.problems:
            text = f"{problem.stream_seq} {problem.kind}: {problem.message}"
            shell.console.print(f"[red]✗[/] {escape(text)}", soft_wrap=True, highlight=False)
    if not report.ok:
        raise Problem(report.sentence())


def on_file(shell: Shell, path: Path) -> audit.Report:
    with progress_bar(shell.errors) as progress:
        bar = progress.add_task("verifying", total=None)
        try:
            with sys.stdin.buffer if str(path) == STDIN else path.open("rb") as file:
                return audit.verify_file(
                    file, lambda done, total: progress.update(bar, completed=done, total=total)
                )[1]
        except OSError as error:
            raise UsageProblem(f"cannot read {path}: {error.strerror}") from None
        except audit.NotAnExport as error:
            raise Problem(f"{path} is no exported audit trail: {error}") from None


async def on_stream(shell: Shell) -> audit.Report:
    async with shell.client() as client:
        with progress_bar(shell.errors) as progress:
            bar = progress.add_task("verifying", total=None)
            try:
                return await audit.verify(
                    client.nats,
                    stream_name(shell.root, AUDIT),
                    lambda done, total: progress.update(bar, completed=done, total=total),
                )
            except NotFoundError:
                raise no_stream(shell.root) from None


async def newest(nats: Nats, root: str, wanted: dict[str, str], count: int) -> list[AuditEvent]:
    """Return the newest `count` events that match `wanted`, oldest first. The stream is read backwards, in pages."""
    found: list[AuditEvent] = []
    async for page in backwards(nats, root):
        for event in reversed(page):
            if len(found) >= count:
                return found[::-1]
            if all(getattr(event, name) == value for name, value in wanted.items()):
                found.append(event)
        if len(found) >= count:
            break
    return found[::-1]


async def backwards(nats: Nats, root: str) -> AsyncIterator[list[AuditEvent]]:
    """Yield the whole stream in pages, the newest page first. Events within a page are oldest first."""
    stream = stream_name(root, AUDIT)
    try:
        info = await nats.jetstream().stream_info(stream)  # pyright: ignore[reportUnknownMemberType]
    except NotFoundError:
        raise no_stream(root) from None
    async for page in audit.backwards(nats, stream, max(info.state.first_seq, 1), info.state.last_seq):
        # Skip messages without an event's ending: something else published them. `audit verify` counts them.
        yield [
            msgspec.json.decode(message.body, type=AuditEvent)
            for message in page
            if audit.unseal(message.body) is not None
        ]


def no_stream(root: str) -> Problem:
    return Problem(
        f"there is no audit stream under the root {root!r}: is this the right NATS, and is Penstock up?"
    )


def print_event(shell: Shell, event: AuditEvent) -> None:
    """Print one event on one line."""
    if shell.json:
        emit(msgspec.json.encode(event).decode())
    else:
        shell.console.print(event_line(event), soft_wrap=True, highlight=False)


def event_line(event: AuditEvent, *, with_id: bool = True) -> str:
    """Format an event for people: time, entity and id, event, states before and after, reason, data."""
    move = ""
    if event.to:
        move = f"{escape(event.from_)} → {styled(event.to)}" if event.from_ else styled(event.to)
    whose = f"{escape(event.entity):<9} {escape(event.id)} " if with_id else ""
    reason = f" [dim]({escape(event.reason)})[/]" if event.reason else ""
    more = f" [dim]{escape(brief(event.data))}[/]" if event.data else ""
    return f"[dim]{clock(event.at)}[/] {whose}[bold]{escape(event.event)}[/] {move}{reason}{more}"


def brief(data: Any, length: int = 100) -> str:
    """Format an event's data as JSON, cut to `length` characters."""
    text = msgspec.json.encode(data).decode()
    return text if len(text) <= length else text[: length - 1] + "…"


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[dim]{task.description}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
