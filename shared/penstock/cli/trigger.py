"""`penstock trigger …`: triggers, by which other systems' messages start executions and flows."""

from typing import Annotated, Any, cast

import msgspec
from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import facts, listing
from penstock.cli.problems import UsageProblem
from penstock.cli.shell import ShellArgument, TextOrDash, read_file
from penstock.messages.common import Page
from penstock.messages.triggers import Trigger, TriggerTested

app = App(name="trigger", help="Start executions and flows for messages of other systems.")


@app.command
async def put(file: TextOrDash, /, *, shell: ShellArgument) -> None:
    """Store a trigger. It replaces a trigger with the same name.

    Parameters
    ----------
    file
        The trigger as JSON: name, subject, stream, where, execution or flow; - reads standard input.
    """
    trigger = cast(Trigger, await shell.ask("trigger.put", _object(file, "FILE")))
    shell.show(
        trigger, f"{escape(trigger.name)} revision {trigger.revision} follows {escape(trigger.subject)}"
    )


@app.command
async def test(
    file: TextOrDash, /, *, sample: Annotated[str, Parameter(name="--sample")], shell: ShellArgument
) -> None:
    """Show the request that a trigger would make for a message. Nothing is changed.

    Parameters
    ----------
    file
        The trigger as JSON.
    sample
        A file with the message: {"subject": …, "headers": {…}, "data": …}.
    """
    request = {"trigger": _object(file, "FILE"), "sample": _object(sample, "--sample")}
    found = cast(TriggerTested, await shell.ask("trigger.test", request))
    if found.dropped is not None:
        shell.show(found, f"nothing: {escape(found.dropped)}")
        return
    body = msgspec.json.format(msgspec.json.encode(found.request), indent=2).decode()
    shell.show(found, f"{escape(found.verb or '')}\n{escape(body)}")


@app.command
async def get(name: str, /, *, shell: ShellArgument) -> None:
    """Show a trigger, with counts of what it has seen, made and dropped.

    Parameters
    ----------
    name
        The trigger's name.
    """
    trigger = cast(Trigger, await shell.ask("trigger.get", {"name": name}))
    shell.show(
        trigger,
        facts(
            {
                "name": escape(trigger.name),
                "subject": escape(trigger.subject),
                "stream": escape(trigger.stream or "core NATS"),
                "revision": trigger.revision,
                "seen": trigger.seen,
                "made": trigger.applied,
                "dropped": trigger.dropped,
                "last error": escape(trigger.last_error or ""),
            }
        ),
    )


@app.command(name="list")
async def list_(*, limit: int = 100, cursor: str | None = None, shell: ShellArgument) -> None:
    """List triggers: what each follows, how many messages it has seen, how many things it has made.

    Parameters
    ----------
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"limit": limit, "cursor": cursor}
    page = cast(Page[Trigger], await shell.ask("trigger.list", request))
    rows = (
        (
            escape(trigger.name),
            escape(trigger.subject),
            escape(trigger.stream or "core NATS"),
            str(trigger.seen),
            str(trigger.applied),
            str(trigger.dropped),
            escape(trigger.last_error or ""),
        )
        for trigger in page.items
    )
    columns = ("trigger", "subject", "stream", "seen", "made", "dropped", "last error")
    shell.show(page, listing(columns, rows))
    shell.more(page)


@app.command
async def delete(name: str, /, *, shell: ShellArgument) -> None:
    """Delete a trigger; executions and flows that it created stay.

    Parameters
    ----------
    name
        The trigger's name.
    """
    trigger = cast(Trigger, await shell.ask("trigger.delete", {"name": name}))
    shell.show(trigger, f"{escape(trigger.name)} is deleted")


def _object(file: str, name: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(read_file(file, name), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{file} does not hold a JSON object: {error}") from None
