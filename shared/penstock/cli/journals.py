"""`penstock journal, fork, versions`: commands on durable functions."""

from typing import Annotated, Any, cast

from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import clock, emit, emit_json, encoded, listing, styled
from penstock.cli.problems import UsageProblem
from penstock.cli.shell import ShellArgument, json_argument
from penstock.messages.common import Page
from penstock.messages.journal import Entry, Forked, VersionCount

SHOWN: int = 60
"""Most characters of a result in a list."""


def add_to(app: App) -> None:
    app.command(journal)
    app.command(fork)
    app.command(versions)


async def journal(
    execution_id: str, /, *, limit: int = 1000, cursor: str | None = None, shell: ShellArgument
) -> None:
    """Show what a durable function has done, and what it waits for.

    Parameters
    ----------
    execution_id
        The execution's id.
    limit
        How many entries at most, up to 1000.
    cursor
        The cursor printed by an earlier call, to go on after it.
    """
    request = {"execution_id": execution_id, "limit": limit, "cursor": cursor}
    page = cast(Page[Entry], await shell.ask("journal.read", request))
    rows = (
        (
            str(each.n),
            clock(each.at),
            styled(each.status, each.ended_by),
            escape(each.key),
            escape(_told(each)),
        )
        for each in page.items
    )
    shell.show_page(page, listing(("n", "at", "status", "key", ""), rows))


def _told(entry: Entry) -> str:
    """Return what is worth knowing of an entry, in one line."""
    if entry.status in ("waiting", "retry"):
        until = f"until {clock(entry.until)}" if entry.until else ""
        return " ".join(word for word in (until, entry.child_id or entry.waitpoint_id or "") if word)
    if entry.error:
        return f"({entry.error['category']}) {entry.error['reason']}"
    text = encoded(entry.signals or entry.raw_result, pretty=False)
    if text == "null":
        return ""
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


async def fork(
    execution_id: str,
    input: str | None = None,
    /,
    *,
    after: str | None = None,
    before: str | None = None,
    edit: Annotated[list[str], Parameter(negative="")] = [],  # noqa: B006 - cyclopts copies it
    idempotency_key: str | None = None,
    shell: ShellArgument,
) -> None:
    """Start a new execution with a copy of a journal; prints the new id. The old execution stays as it is.

    penstock fork ID --after step:charge --edit 'step:charge={"paid": true}'

    Parameters
    ----------
    execution_id
        The id of the execution to be forked, in whatever state it is.
    input
        Another input, as JSON; @FILE reads it from a file, - from standard input.
    after
        Copy the journal up to this entry's key, with it. Without --after and --before, all of it is copied.
    before
        Copy the journal up to this entry's key, without it: the new execution does that step again.
    edit
        KEY=JSON: another result for a copied entry; may be given several times.
    idempotency_key
        Repeating the command with the same key returns the first fork's id.
    """
    request: dict[str, Any] = {
        "execution_id": execution_id,
        "after_key": after,
        "before_key": before,
        "input": json_argument(input, "INPUT"),
        "edits": [_edit(text) for text in edit] or None,
        "idempotency_key": idempotency_key,
    }
    made = cast(Forked, await shell.ask("execution.fork", request))
    emit_json(made) if shell.json else emit(made.execution_id)


def _edit(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageProblem(f"--edit must read KEY=JSON, not {text!r}")
    return {"key": key, "result": json_argument(value, "--edit")}


async def versions(kind: str, /, *, shell: ShellArgument) -> None:
    """Count a kind's executions that have not ended, by the version of the code that began them.

    A version that is not listed is needed by no execution any more.

    Parameters
    ----------
    kind
        The name of a worker's handler.
    """
    page = cast(Page[VersionCount], await shell.ask("execution.versions", {"kind": kind}))
    rows = ((escape(each.version), str(each.open), each.oldest or "") for each in page.items)
    shell.show(page, listing(("version", "open", "oldest"), rows))
