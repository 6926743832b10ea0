"""`penstock mirror …`: rules that turn other systems' messages into observations of mirrored flows."""

from typing import Annotated, cast

from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import encoded
from penstock.cli.rules import read_object, show_deleted, show_rule, show_rules, show_stored
from penstock.cli.shell import ShellArgument, TextOrDash
from penstock.messages.common import Page
from penstock.messages.mirror_rules import MirrorRule, MirrorRuleTested

app = App(name="mirror", help="Follow other systems: rules that make observations of their messages.")


@app.command
async def put(file: TextOrDash, /, *, shell: ShellArgument) -> None:
    """Store a rule. It replaces a rule with the same name.

    Parameters
    ----------
    file
        The rule as JSON: name, subject, flow, run_id, task, status …; - reads standard input.
    """
    request = read_object(file, "FILE")
    show_stored(shell, cast(MirrorRule, await shell.ask("mirror_rule.put", request)))


@app.command
async def test(
    file: TextOrDash, /, *, sample: Annotated[str, Parameter(name="--sample")], shell: ShellArgument
) -> None:
    """Show the observation that a rule would make of a message. Nothing is changed.

    Parameters
    ----------
    file
        The rule as JSON.
    sample
        A file with the message: {"subject": …, "headers": {…}, "data": …}.
    """
    request = {"rule": read_object(file, "FILE"), "sample": read_object(sample, "--sample")}
    found = cast(MirrorRuleTested, await shell.ask("mirror_rule.test", request))
    if found.dropped is not None:
        shell.show(found, f"no observation: {escape(found.dropped)}")
        return
    of = f"flow {found.flow_id}" if found.flow_id else f"the flow of key {found.key!r}"
    shell.show(found, f"{escape(of)}\n{escape(encoded(found.observation, pretty=True))}")


@app.command
async def get(name: str, /, *, shell: ShellArgument) -> None:
    """Show a rule, with counts of the messages it has seen, applied and dropped.

    Parameters
    ----------
    name
        The rule's name.
    """
    show_rule(shell, cast(MirrorRule, await shell.ask("mirror_rule.get", {"name": name})), "applied")


@app.command(name="list")
async def list_(*, limit: int = 100, cursor: str | None = None, shell: ShellArgument) -> None:
    """List rules: what each follows, and how many messages it has seen, applied and dropped.

    Parameters
    ----------
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"limit": limit, "cursor": cursor}
    page = cast(Page[MirrorRule], await shell.ask("mirror_rule.list", request))
    show_rules(shell, page, "rule", "applied")


@app.command
async def delete(name: str, /, *, shell: ShellArgument) -> None:
    """Delete a rule; the flows that it created stay.

    Parameters
    ----------
    name
        The rule's name.
    """
    show_deleted(shell, cast(MirrorRule, await shell.ask("mirror_rule.delete", {"name": name})))
