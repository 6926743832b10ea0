"""`penstock audit export`: the audit trail as a file that `penstock audit verify FILE` proves without a server."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from cyclopts import Parameter
from nats.aio.client import Client as Nats
from nats.js.errors import NotFoundError

from penstock import audit
from penstock.bus.streams import AUDIT, stream_name
from penstock.cli.audit import filters, no_stream, progress_bar
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import Shell, ShellArgument


class _Names(msgspec.Struct):
    namespace: str
    entity: str
    event: str
    id: str


async def export(
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    namespace: str = "*",
    entity: str = "*",
    event: str = "*",
    id: str = "*",
    shell: ShellArgument,
) -> None:
    """Write audit events as JSON Lines, with what `penstock audit verify FILE` needs to prove them.

    Times are those at which events entered the trail, normally within a second of the event's own `at`. So what is
    exported from one time to the next is one piece of the chain: files for day after day have each event once.

    Parameters
    ----------
    output
        The file to write, mode 0600; it must not exist [standard output].
    since
        From this time on, such as 2026-01-31T12:00 or 2026-01-31 (local time, unless it names a zone).
    until
        Up to this time, exclusive.
    namespace
        Only of this namespace. With this or another filter below, the file holds a selection: each event of it
        is proved, but not that nothing lies between them.
    entity
        Only of this type: execution, flow, waitpoint, budget, lane, schedule, worker, partition.
    event
        Only this event, such as completed.
    id
        Only of the execution, flow or waitpoint with this id.
    """
    selected = filters(namespace=namespace, entity=entity, event=event, id=id)
    async with shell.client() as client:
        stream = stream_name(shell.root, AUDIT)
        first, last = await _range(client.nats, stream, since, until, shell.root)
        head = audit.Head(
            root=shell.root,
            first_seq=first,
            last_seq=last,
            since=since.astimezone().isoformat() if since else None,
            until=until.astimezone().isoformat() if until else None,
            selected=selected,
        )
        with _opened(output) as file:
            await _write(client.nats, stream, audit.Writer(file, head), head, shell)


async def _range(
    nats: Nats, stream: str, since: datetime | None, until: datetime | None, root: str
) -> tuple[int, int]:
    try:
        state = (await nats.jetstream().stream_info(stream)).state  # pyright: ignore[reportUnknownMemberType]
    except NotFoundError:
        raise no_stream(root) from None
    first = await audit.find(nats, stream, since.timestamp()) if since else max(state.first_seq, 1)
    last = await audit.find(nats, stream, until.timestamp()) - 1 if until else state.last_seq
    return first, max(last, first - 1)


async def _write(nats: Nats, stream: str, writer: audit.Writer, head: audit.Head, shell: Shell) -> None:
    names = msgspec.json.Decoder(_Names).decode
    total = head.last_seq - head.first_seq + 1
    with progress_bar(shell.errors) as progress:
        bar = progress.add_task("exporting", total=total)
        async for page in audit.pages(nats, stream, head.first_seq, head.last_seq):
            for seq, body in page:
                if head.selected:
                    if audit.unseal(body) is None:
                        continue
                    told = names(body)
                    if any(getattr(told, name) != value for name, value in head.selected.items()):
                        continue
                writer.add(seq, body)
            progress.update(bar, completed=page[-1][0] - head.first_seq + 1 if page else 0)
    writer.finish()
    where = "all of them" if not head.selected else f"of {total}"
    shell.errors.print(
        f"[dim]{writer.messages} events exported ({where}), stream {head.first_seq} to {head.last_seq}[/]"
    )


@contextmanager
def _opened(path: Path | None) -> Generator[BinaryIO]:
    """Open the output. The file gets its name only when it is whole."""
    if path is None:
        yield sys.stdout.buffer
        return
    if path.exists():
        raise UsageProblem(f"{path} exists: name another file")
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                yield file
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except (BrokenPipeError, TimeoutError):
        raise
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror}") from None
