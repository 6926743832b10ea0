"""`penstock search, failures, kinds, limits blocked`: what runs, what fails, and what holds work back."""

from typing import cast

from cyclopts import App
from rich.markup import escape

from penstock.cli.output import clock, encoded, listing, styled
from penstock.cli.shell import ShellArgument
from penstock.cli.wanted import ANYTHING, Wanted
from penstock.messages.common import Page
from penstock.messages.search import ExecutionRow, Found
from penstock.messages.statistics import BlockedLimits, FailureGroup
from penstock.messages.workers import KindInfo

limits = App(name="limits", help="Show which limits hold work back.")


def add_to(app: App) -> None:
    app.command(search)
    app.command(failures)
    app.command(kinds)
    app.command(limits)


async def search(
    *, wanted: Wanted = ANYTHING, limit: int = 100, cursor: str | None = None, shell: ShellArgument
) -> None:
    """Find executions by all that is given, newest first.

    A page may be short or empty and still have a cursor: one answer looks at a bounded number of executions.

    Parameters
    ----------
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier search, to go on after it.
    """
    request = {"filter": wanted.filter(), "limit": limit, "cursor": cursor}
    page = cast(Found, await shell.ask("execution.search", request))
    shell.show_page(
        page, listing(("id", "kind", "lane", "state", "created", "why"), (_row(each) for each in page.items))
    )
    if page.cursor and not shell.json:
        shell.errors.print(f"[dim]complete back to {clock(page.looked_to)}[/]")


def _row(row: ExecutionRow) -> tuple[str, ...]:
    why = str((row.failure or {}).get("reason") or "") if row.state != "completed" else ""
    return (
        row.execution_id,
        escape(row.kind),
        escape(row.lane),
        styled(row.state, row.reason),
        clock(row.created_at),
        escape(why),
    )


async def failures(
    *,
    namespace: str | None = None,
    kind: str | None = None,
    category: str | None = None,
    limit: int = 100,
    shell: ShellArgument,
) -> None:
    """Show failures in groups of one kind, category and cause, the latest first.

    penstock bulk start replay --group GROUP runs a group's executions again.

    Parameters
    ----------
    namespace
        Of this namespace only.
    kind
        Of this kind only.
    category
        Of this category only.
    limit
        How many groups at most, up to 1000.
    """
    request = {"namespace": namespace, "kind": kind, "category": category, "limit": limit}
    page = cast(Page[FailureGroup], await shell.ask("failure.groups", request))
    rows = (
        (
            each.group,
            escape(each.kind),
            escape(each.category),
            str(each.failed),
            str(each.retried),
            clock(each.last_at),
            escape(each.reason),
        )
        for each in page.items
    )
    shell.show(page, listing(("group", "kind", "category", "failed", "retried", "last", "why"), rows))


async def kinds(*, limit: int = 100, cursor: str | None = None, shell: ShellArgument) -> None:
    """List the kinds that workers have told of, with the schema of their input.

    Parameters
    ----------
    limit
        How many at most, up to 100.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    page = cast(Page[KindInfo], await shell.ask("kind.list", {"limit": limit, "cursor": cursor}))
    rows = (
        (
            escape(each.kind),
            escape(", ".join(each.lanes)),
            escape(each.description.partition("\n")[0]),
            "" if each.input is None else escape(encoded(each.input, pretty=False)),
        )
        for each in page.items
    )
    shell.show_page(page, listing(("kind", "lanes", "what", "input"), rows))


@limits.command
async def blocked(*, lane: str | None = None, limit: int = 50, shell: ShellArgument) -> None:
    """Show the limits without room that hold ready work back, those that hold back most first.

    Parameters
    ----------
    lane
        Only what holds back work of this lane.
    limit
        How many at most, up to 200.
    """
    found = cast(BlockedLimits, await shell.ask("limits.blocked", {"lane": lane, "limit": limit}))
    rows = (
        (
            each.kind,
            escape(each.id),
            str(each.waiting),
            escape(", ".join(each.lanes)),
            "\n".join(each.holders),
        )
        for each in found.items
    )
    shell.show(found, listing(("limit", "id", "waiting", "lanes", "held by"), rows))
    if found.more and not shell.json:
        shell.errors.print("[dim]there are more, which were not looked at[/]")
