"""`penstock mirror …`: rules that turn other systems' messages into observations of mirrored flows."""

from typing import Annotated, Any, cast

import msgspec
from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import facts, listing
from penstock.cli.problems import UsageProblem
from penstock.cli.shell import ShellArgument, TextOrDash, read_file
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
    rule = cast(MirrorRule, await shell.ask("mirror_rule.put", _object(file, "FILE")))
    shell.show(rule, f"{escape(rule.name)} revision {rule.revision} follows {escape(rule.subject)}")


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
    request = {"rule": _object(file, "FILE"), "sample": _object(sample, "--sample")}
    found = cast(MirrorRuleTested, await shell.ask("mirror_rule.test", request))
    if found.dropped is not None:
        shell.show(found, f"no observation: {escape(found.dropped)}")
        return
    of = f"flow {found.flow_id}" if found.flow_id else f"the flow of key {found.key!r}"
    body = msgspec.json.format(msgspec.json.encode(found.observation), indent=2).decode()
    shell.show(found, f"{escape(of)}\n{escape(body)}")


@app.command
async def get(name: str, /, *, shell: ShellArgument) -> None:
    """Show a rule, with counts of the messages it has seen, applied and dropped.

    Parameters
    ----------
    name
        The rule's name.
    """
    rule = cast(MirrorRule, await shell.ask("mirror_rule.get", {"name": name}))
    shell.show(
        rule,
        facts(
            {
                "name": escape(rule.name),
                "subject": escape(rule.subject),
                "stream": escape(rule.stream or "core NATS"),
                "revision": rule.revision,
                "seen": rule.seen,
                "applied": rule.applied,
                "dropped": rule.dropped,
                "last error": escape(rule.last_error or ""),
            }
        ),
    )


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
    rows = (
        (
            escape(rule.name),
            escape(rule.subject),
            escape(rule.stream or "core NATS"),
            str(rule.seen),
            str(rule.applied),
            str(rule.dropped),
            escape(rule.last_error or ""),
        )
        for rule in page.items
    )
    columns = ("rule", "subject", "stream", "seen", "applied", "dropped", "last error")
    shell.show(page, listing(columns, rows))
    shell.more(page)


@app.command
async def delete(name: str, /, *, shell: ShellArgument) -> None:
    """Delete a rule; the flows that it created stay.

    Parameters
    ----------
    name
        The rule's name.
    """
    rule = cast(MirrorRule, await shell.ask("mirror_rule.delete", {"name": name}))
    shell.show(rule, f"{escape(rule.name)} is deleted")


def _object(file: str, name: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(read_file(file, name), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{file} does not hold a JSON object: {error}") from None
