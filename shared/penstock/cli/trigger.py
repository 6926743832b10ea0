"""`penstock trigger …`: triggers, by which other systems' messages start executions and flows."""

from typing import Annotated, cast

from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import encoded
from penstock.cli.rules import read_object, show_deleted, show_rule, show_rules, show_stored
from penstock.cli.shell import ShellArgument, TextOrDash
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
    request = read_object(file, "FILE")
    show_stored(shell, cast(Trigger, await shell.ask("trigger.put", request)))


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
    request = {"trigger": read_object(file, "FILE"), "sample": read_object(sample, "--sample")}
    found = cast(TriggerTested, await shell.ask("trigger.test", request))
    if found.dropped is not None:
        shell.show(found, f"nothing: {escape(found.dropped)}")
        return
    shell.show(found, f"{escape(found.verb or '')}\n{escape(encoded(found.request, pretty=True))}")


@app.command
async def get(name: str, /, *, shell: ShellArgument) -> None:
    """Show a trigger, with counts of what it has seen, made and dropped.

    Parameters
    ----------
    name
        The trigger's name.
    """
    show_rule(shell, cast(Trigger, await shell.ask("trigger.get", {"name": name})), "made")


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
    show_rules(shell, page, "trigger", "made")


@app.command
async def delete(name: str, /, *, shell: ShellArgument) -> None:
    """Delete a trigger; executions and flows that it created stay.

    Parameters
    ----------
    name
        The trigger's name.
    """
    show_deleted(shell, cast(Trigger, await shell.ask("trigger.delete", {"name": name})))
