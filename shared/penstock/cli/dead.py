"""`penstock dead …`: published messages that could not be applied, and how to publish them again."""

import json
from typing import Any, Final

from cyclopts import App
from nats.aio.client import Client as Nats
from nats.errors import NoRespondersError
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError
from rich.markup import escape

from penstock import audit
from penstock.audit.stream import Stored
from penstock.bus.streams import DEAD, stream_name
from penstock.cli.output import facts, listing
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import ShellArgument

app = App(name="dead", help="Dead letters: published messages that could not be applied.")

REASON: Final = "Penstock-Dead-Reason"
_ADDED: Final = ("Penstock-Dead-", "Penstock-Message-Id", "Nats-")
"""What Penstock and NATS have added to the headers of the message."""


@app.command(name="list")
async def list_(*, limit: int = 50, shell: ShellArgument) -> None:
    """List dead letters, newest first, with the subject on which each was published, and why it could not be applied.

    Parameters
    ----------
    limit
        How many at most.
    """
    found: list[Stored] = []
    async with shell.client() as client:
        first, last = await _bounds(client.nats, shell.root)
        async for page in audit.backwards(client.nats, stream_name(shell.root, DEAD), first, last):
            found += reversed(page)
            if len(found) >= limit:
                break
    del found[limit:]
    rows = ((str(each.seq), escape(_subject(each, shell.root)), escape(_reason(each))) for each in found)
    told = {"items": [_told(each, shell.root) for each in found]}
    shell.show(told, listing(("letter", "subject", "why"), rows))


@app.command
async def get(letter: int, /, *, shell: ShellArgument) -> None:
    """Show a dead letter whole.

    Parameters
    ----------
    letter
        Its number, as `penstock dead list` prints it.
    """
    async with shell.client() as client:
        found = await _one(client.nats, shell.root, letter)
    told = _told(found, shell.root)
    shell.show(told, facts({name: escape(str(value)) for name, value in told.items()}))


@app.command
async def publish(letter: int, /, *, shell: ShellArgument) -> None:
    """Publish a dead letter again on its subject, as the same message. The letter stays until its time is over.

    Parameters
    ----------
    letter
        Its number. Twice within two minutes is one and the same message.
    """
    async with shell.client() as client:
        found = await _one(client.nats, shell.root, letter)
        subject = _subject(found, shell.root)
        if subject == f"{shell.root}.audit":
            raise Problem(
                f"letter {letter} is an event that could not be written down, and no message that was published"
            )
        if "Penstock-Dead-Size" in found.headers:
            raise Problem(f"letter {letter} was too large to be kept whole: publish the original again")
        headers = {name: value for name, value in found.headers.items() if not name.startswith(_ADDED)}
        headers["Nats-Msg-Id"] = f"dead-{letter}"
        try:
            stored = await client.nats.jetstream().publish(  # pyright: ignore[reportUnknownMemberType]
                subject, found.body, headers=headers
            )
        except (APIError, NoStreamResponseError) as error:
            raise Problem(f"{subject} was not stored: {error}") from None
    told = {
        "subject": subject,
        "stream": stored.stream,
        "seq": stored.seq,
        "duplicate": bool(stored.duplicate),
    }
    shell.show(told, facts({name: escape(str(value)) for name, value in told.items()}))


async def _bounds(nats: Nats, root: str) -> tuple[int, int]:
    """Return the first and the last number that the stream of dead letters has."""
    try:
        info = await nats.jetstream().stream_info(stream_name(root, DEAD))  # pyright: ignore[reportUnknownMemberType]
    except NotFoundError:
        raise Problem(f"there are no dead letters under the root {root!r}: is this the right NATS?") from None
    return max(info.state.first_seq, 1), info.state.last_seq


async def _one(nats: Nats, root: str, letter: int) -> Stored:
    try:
        async for page in audit.stored(nats, stream_name(root, DEAD), letter, letter):
            for each in page:
                if each.seq == letter:
                    return each
    except NoRespondersError:
        raise Problem(f"the dead letters under the root {root!r} cannot be read") from None
    raise UsageProblem(f"there is no letter {letter} (any more): see penstock dead list")


def _subject(letter: Stored, root: str) -> str:
    """Return the subject on which it was published."""
    return letter.subject.replace(f"{root}.dead.", f"{root}.", 1)


def _reason(letter: Stored) -> str:
    return letter.headers.get(REASON, "")


def _told(letter: Stored, root: str) -> dict[str, Any]:
    text = letter.body.decode(errors="backslashreplace")
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    return {
        "letter": letter.seq,
        "subject": _subject(letter, root),
        "why": _reason(letter),
        "headers": letter.headers,
        "body": body,
    }
