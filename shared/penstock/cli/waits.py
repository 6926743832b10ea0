"""`penstock waits`: where an execution waits for signals, and what has come there."""

from collections.abc import Iterable, Iterator

from cyclopts import App
from rich.markup import escape

from penstock.cli.output import clock, emit_json, encoded, listing, styled
from penstock.cli.shell import ShellArgument
from penstock.messages.signals import KeptSignal, Waitpoint


def add_to(app: App) -> None:
    app.command(waits)


async def waits(execution_id: str, /, *, shell: ShellArgument) -> None:
    """Show the waitpoints of an execution, and the signals that they keep: ✓ if they satisfied the condition.

    Parameters
    ----------
    execution_id
        The execution's id.
    """
    async with shell.client() as client:
        kept = [
            (waitpoint, [each async for each in client.waitpoints.signals(waitpoint.waitpoint_id)])
            async for waitpoint in client.waitpoints.list(execution_id=execution_id)
        ]
    if shell.json:
        emit_json({"items": [{"waitpoint": waitpoint, "signals": signals} for waitpoint, signals in kept]})
    else:
        shell.console.print(listing(("at", "status", "name", "from", ""), _rows(kept)))


def _rows(kept: Iterable[tuple[Waitpoint, list[KeptSignal]]]) -> Iterator[tuple[str, ...]]:
    for waitpoint, signals in kept:
        misses = f"misses {'; '.join(waitpoint.missing)}" if waitpoint.missing else ""
        yield (
            clock(waitpoint.created_at),
            styled(waitpoint.status),
            escape(waitpoint.waitpoint_key),
            "",
            escape(misses),
        )
        for signal in signals:
            mark, text = "✓" if signal.satisfied else "", encoded(signal.raw_payload, pretty=False)
            yield (
                clock(signal.at),
                mark,
                f"  {escape(signal.name)}",
                escape(signal.source or ""),
                escape(text),
            )
