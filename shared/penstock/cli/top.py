"""`penstock top`: show lanes and workers, live."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penstock import errors, verbs
from penstock.cli.lanes import HELD, WAITING, count
from penstock.cli.output import age, emit, encoded, styled
from penstock.cli.shell import ShellArgument
from penstock.client import Client
from penstock.messages.executions import Lane
from penstock.messages.workers import WorkerInfo

ENDED: Final = ("completed", "failed", "canceled")
PAGE: Final = 1000


@dataclass(frozen=True)
class Look:
    """The lanes and workers at one moment."""

    lanes: list[Lane]
    workers: list[WorkerInfo]
    taken: float = field(default_factory=time.monotonic)

    def body(self) -> dict[str, Any]:
        return {"at": round(time.time() * 1000), "lanes": self.lanes, "workers": self.workers}


async def top(
    *,
    interval: float = 1.0,
    once: Annotated[bool, Parameter(negative="")] = False,
    shell: ShellArgument,
) -> None:
    """Show all lanes and their workers, again and again until Ctrl-C.

    The rates are executions that came and that ended per second since the last look. With --json, one look per line.

    Parameters
    ----------
    interval
        Seconds between two looks [1].
    once
        Look once, for scripts. This is the default when the output is no terminal, except with --json.
    """
    async with shell.client() as client:
        look = await look_at(client)
        if shell.json:
            emit(encoded(look.body(), pretty=False))
            while not once:
                await asyncio.sleep(interval)
                emit(encoded((await look_at(client)).body(), pretty=False))
            return
        if once or not shell.console.is_terminal:
            shell.console.print(picture(look, None))
            return
        try:
            with Live(picture(look, None), console=shell.console, screen=True, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(interval)
                    try:
                        before, look = look, await look_at(client)
                        live.update(picture(look, before), refresh=True)
                    except errors.UnavailableError as error:
                        away = Text(str(error), style="red")
                        live.update(Group(picture(look, None), away), refresh=True)
        except asyncio.CancelledError:  # Ctrl-C is the normal way to end this command
            return


async def look_at(client: Client) -> Look:
    """Fetch all lanes and all registered workers."""
    lanes, workers = await asyncio.gather(_all(client, verbs.LANE_LIST), _all(client, verbs.WORKER_LIST))
    return Look(lanes, workers)


async def _all(client: Client, verb: verbs.Verb[Any, Any]) -> list[Any]:
    items: list[Any] = []
    cursor: str | None = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page: Any = await client.call(verb, {"limit": PAGE, **more})
        items += page.items
        cursor = page.cursor
        if cursor is None:
            return items


def picture(look: Look, before: Look | None) -> Group:
    """Render the tables of lanes and workers. Rates need the look `before`."""
    return Group(_lanes(look, before), Text(), _workers(look))


def _lanes(look: Look, before: Look | None) -> Table:
    columns = (
        "ready",
        "running",
        "waiting",
        "suspended",
        "in /s",
        "done /s",
        "failed /s",
        "workers",
        "oldest",
    )
    table = _table("lane", "status", right=columns)
    past = {lane.lane: lane for lane in before.lanes} if before else {}
    seconds = look.taken - before.taken if before else 0.0
    for lane in sorted(look.lanes, key=lambda lane: (-count(lane, "ready", *HELD), lane.lane)):
        serving = sum(lane.lane in each.lanes and each.status == "active" for each in look.workers)
        numbers = [
            count(lane, "ready"),
            count(lane, *HELD),
            count(lane, *WAITING),
            count(lane, "suspended"),
        ]
        table.add_row(
            escape(lane.lane),
            styled(lane.status),
            *(_number(number) for number in numbers),
            *rates(lane, past.get(lane.lane), seconds),
            _number(serving),
            age(lane.oldest_ready_age_ms),
        )
    return table


def rates(lane: Lane, past: Lane | None, seconds: float) -> tuple[str, str, str]:
    """Return the executions that came, completed and failed per second. Those that retention removed are missing."""
    if past is None or seconds <= 0:
        return "", "", ""

    def more(*states: str) -> int:
        return count(lane, *states) - count(past, *states)

    came = sum(lane.depth.values()) - sum(past.depth.values())
    return _rate(came / seconds), _rate(more("completed") / seconds), _rate(more("failed") / seconds)


def _rate(number: float) -> str:
    return _number(round(number, 1) if 0 < number < 10 else max(0, round(number)))


def _workers(look: Look) -> Table:
    table = _table("worker", "status", right=("held", "seen"), last="lanes")
    newest = max((worker.seen_at for worker in look.workers), default=0)
    for worker in look.workers:
        able = f" [dim]({escape(' '.join(worker.capabilities))})[/]" if worker.capabilities else ""
        table.add_row(
            escape(worker.worker_id),
            styled(worker.status),
            _number(worker.held or 0),
            f"{age(newest - worker.seen_at)} ago",
            escape(" ".join(worker.lanes)) + able,
        )
    return table


def _table(*left: str, right: tuple[str, ...], last: str | None = None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, no_wrap=True, justify="right")
    if last:
        table.add_column(last, overflow="fold")
    return table


def _number(number: float) -> str:
    return str(number) if number else "[dim]0[/]"
