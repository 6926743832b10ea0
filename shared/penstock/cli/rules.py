"""How `penstock mirror` and `penstock trigger` read rules from files, and show them."""

from typing import Any

import msgspec
from rich.markup import escape

from penstock.cli.output import facts, listing
from penstock.cli.problems import UsageProblem
from penstock.cli.shell import Shell, read_file
from penstock.messages.common import Page
from penstock.messages.mirror_rules import MirrorRule
from penstock.messages.triggers import Trigger

Rule = MirrorRule | Trigger


def read_object(file: str, name: str) -> dict[str, Any]:
    """Return the JSON object in a file. `name` is the argument's, for the message of a `UsageProblem`."""
    try:
        return msgspec.json.decode(read_file(file, name), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{file} does not hold a JSON object: {error}") from None


def show_stored(shell: Shell, rule: Rule) -> None:
    shell.show(rule, f"{escape(rule.name)} revision {rule.revision} follows {escape(rule.subject)}")


def show_deleted(shell: Shell, rule: Rule) -> None:
    shell.show(rule, f"{escape(rule.name)} is deleted")


def show_rule(shell: Shell, rule: Rule, applied: str) -> None:
    """Show one rule. `applied` is the word for the messages that had an effect."""
    shell.show(
        rule,
        facts(
            {
                "name": escape(rule.name),
                "subject": escape(rule.subject),
                "stream": escape(rule.stream or "core NATS"),
                "revision": rule.revision,
                "seen": rule.seen,
                applied: rule.applied,
                "dropped": rule.dropped,
                "last error": escape(rule.last_error or ""),
            }
        ),
    )


def show_rules(shell: Shell, page: Page[MirrorRule] | Page[Trigger], title: str, applied: str) -> None:
    """Show a list of rules. `title` heads the column of names; `applied`: see `show_rule`."""
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
    shell.show_page(
        page, listing((title, "subject", "stream", "seen", applied, "dropped", "last error"), rows)
    )
