"""`penstock submit-many`: submit executions from a file of JSON Lines, in batches."""

import asyncio
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from cyclopts import App
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from penstock import errors, verbs
from penstock.cli.output import emit, encoded
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import STDIN, Shell, ShellArgument, TextOrDash
from penstock.cli.spec import NOTHING_SAID, Spec
from penstock.client import Client

BATCH: Final = 1000
BATCH_BYTES: Final = 4 * 2**20
MOST_SHOWN: Final = 20

Line = tuple[int, bytes]
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def add_to(app: App) -> None:
    app.command(submit_many)


async def submit_many(
    file: TextOrDash,
    /,
    *,
    kind: str | None = None,
    key: str | None = None,
    spec: Spec = NOTHING_SAID,
    shell: ShellArgument,
) -> None:
    """Submit an execution for each line of a file of JSON Lines; exit code 1 when any is refused.

    A line holds the fields of execution.create: {"kind": "mail.send", "input": {"to": "a@example.com"}}.
    Options are defaults for all lines. With --json, the reply to each line is one line.

    Parameters
    ----------
    file
        The file; - reads standard input.
    kind
        The kind of all executions. Each line is then only an input.
    key
        Makes this command repeatable: with the same key again, lines that were accepted are not accepted twice.
        (The idempotency key of line 7 is KEY-7.)
    """
    taken = failed = 0
    with _opened(file) as lines, _progress(shell) as progress:
        bar = progress.add_task("", total=_size(lines))
        async with shell.client() as client:
            for batch in batches(lines):
                answers = await asyncio.gather(
                    *(_submit(client, number, text, kind, key, spec.fields()) for number, text in batch)
                )
                for (number, _), answer in zip(batch, answers, strict=True):
                    if isinstance(answer, errors.PenstockError):
                        failed += 1
                        _refused(shell, progress, number, answer, failed)
                    else:
                        taken += 1
                        if shell.json:
                            emit(encoded({"line": number, **msgspec.to_builtins(answer)}, pretty=False))
                progress.update(
                    bar, advance=sum(len(text) for _, text in batch), description=_said(taken, failed)
                )
    if not shell.json:
        shell.console.print(_said(taken, failed), highlight=False)
    if failed:
        raise Problem(f"{failed} of {taken + failed} lines were not taken")


async def _submit(
    client: Client, number: int, text: bytes, kind: str | None, key: str | None, defaults: dict[str, Any]
) -> Any:
    """Submit one line and return the reply or the error. Calls of one event-loop tick leave in one message."""
    try:
        if kind is None:
            fields: dict[str, Any] = {**defaults, **_fields(text)}
        else:
            msgspec.json.decode(text)
            fields = {**defaults, "kind": kind, "input": msgspec.Raw(text.strip())}
        if key is not None:
            fields.setdefault("idempotency_key", f"{key}-{number}")
        return await client.call(verbs.EXECUTION_CREATE, fields)
    except errors.PenstockError as error:
        return error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return errors.make("invalid_request", f"the line is not what it should be: {error}")


def batches(lines: BinaryIO) -> Iterator[list[Line]]:
    """Yield batches of (line number, line), each as large as allowed. Empty lines are left out."""
    batch: list[Line] = []
    size = 0
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        if batch and (len(batch) == BATCH or size + len(text) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((number, text))
        size += len(text)
    if batch:
        yield batch


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == STDIN:
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise UsageProblem(f"FILE: cannot read {file}: {error.strerror}") from None


def _size(lines: BinaryIO) -> int | None:
    """Return a file's size in bytes, or None for a pipe or terminal, whose size is unknown."""
    status = os.fstat(lines.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _refused(shell: Shell, progress: Progress, number: int, error: errors.PenstockError, failed: int) -> None:
    if shell.json:
        emit(encoded({"line": number, "error": error.body()}, pretty=False))
    elif failed <= MOST_SHOWN:
        text = f"line {number}: {error.code}: {error.message}"
        progress.console.print(escape(text), style="red", soft_wrap=True, highlight=False)
    elif failed == MOST_SHOWN + 1:
        progress.console.print("[dim]and more, which --json would show[/]")


def _said(taken: int, failed: int) -> str:
    return f"{taken} submitted" + (f", [red]{failed} refused[/]" if failed else "")


def _progress(shell: Shell) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=shell.errors,
        transient=True,
        disable=not shell.errors.is_terminal,
    )
