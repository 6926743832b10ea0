"""The output of commands: JSON for scripts, tables and lines for people."""

import contextlib
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

STYLES: Final = {
    "completed": "green",
    "finished": "green",
    "succeeded": "green",
    "failed": "red",
    "canceled": "yellow",
    "cancelled": "yellow",
    "running": "cyan",
    "leased": "cyan",
    "suspended": "magenta",
    "waiting": "magenta",
    "retry_wait": "yellow",
    "active": "green",
    "paused": "yellow",
    "draining": "yellow",
    "lost": "red",
}


def encoded(value: Any, *, pretty: bool) -> str:
    """Encode a reply as JSON. Payloads are kept byte for byte, except for the spaces that `pretty` adds."""
    body = msgspec.json.encode(value)
    return (msgspec.json.format(body, indent=2) if pretty else body).decode()


def emit(text: str) -> None:
    """Print a line directly, so that rich does not wrap or color it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    emit(encoded(value, pretty=sys.stdout.isatty()))


def styled(state: str, reason: str | None = None) -> str:
    """Format a state in its color, with its reason."""
    style = STYLES.get(state, "default")
    return f"[{style}]{escape(state)}[/]" + (f" [dim]({escape(reason)})[/]" if reason else "")


def clock(at: int | None) -> str:
    """Format a time (ms since the Unix epoch) in local time, without the date if it is today."""
    if at is None:
        return ""
    seconds, ms = divmod(at, 1000)
    shown = time.localtime(seconds)
    day = "" if time.localtime()[:3] == shown[:3] else time.strftime("%Y-%m-%d ", shown)
    return f"{day}{time.strftime('%H:%M:%S', shown)}.{ms:03}"


def age(ms: int | None) -> str:
    """Format a duration roughly, in its two largest units."""
    if ms is None:
        return ""
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def payload(value: Any) -> str:
    """Format a payload as indented JSON."""
    return encoded(value, pretty=True)


def facts(rows: Mapping[str, Any]) -> Table:
    """Make a table of names and values, one pair per line. Values that are not set are left out."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value not in (None, "", [], {}):
            table.add_row(name, value if isinstance(value, str) else escape(payload(value)))
    return table


def listing(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Make a plain table. Only the last column is folded when a line is too long, so that ids stay whole."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    *whole, last = columns
    for name in whole:
        table.add_column(name, no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


class Status:
    """The status output of a long-running command: lines, and on a terminal one line that changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = console.status("") if console.is_terminal else None
        self._doing = ""

    def __enter__(self) -> "Status":
        return self

    def __exit__(self, *_: object) -> None:
        self._pause()

    def _pause(self) -> None:
        if self._spinner:
            self._spinner.stop()

    def doing(self, text: str) -> None:
        if self._spinner and text != self._doing:
            self._doing = text
            self._spinner.update(f"[dim]{escape(text)}[/]")
            self._spinner.start()

    def say(self, text: str) -> None:
        self._pause()
        self._print(escape(text))

    def good(self, name: str, text: str) -> None:
        self._print(f"[green]✓[/] {name:<18} [dim]{escape(text)}[/]")

    def bad(self, name: str, text: str) -> None:
        self._print(f"[red]✗[/] {name:<18} {escape(text)}")

    def _print(self, markup: str) -> None:
        # The disk may be full or the reader gone. Neither may stop the running command.
        with contextlib.suppress(OSError):
            self._console.print(markup, soft_wrap=True, highlight=False)
