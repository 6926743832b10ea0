"""Where the relay continues. Only the end of the audit stream knows, so it is read from there."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from penstock.audit import CURSOR_HEADER, GENESIS, unseal

_cursor: Final = msgspec.json.Decoder(dict[int, str], strict=False).decode


def cursor_of(headers: Mapping[str, str]) -> dict[int, str] | None:
    """Return the cursor in a message's headers: the last message of each batch has one."""
    text = headers.get(CURSOR_HEADER)
    return None if text is None else _cursor(text)


class Position(Struct):
    """The end of the audit stream: last sequence, last hash, cursor."""

    seq: int = 0
    hash: bytes = GENESIS
    cursor: dict[int, str] = {}
    """For each partition, the last outbox entry whose events are all in the stream."""
    stored: frozenset[bytes] = frozenset()
    """Canonical forms of the events behind the last cursor: in the stream, but not covered by the cursor."""


async def recover(js: JetStreamContext, stream: str) -> Position:
    """Return the position after the last event in the stream.

    The last message normally ends a batch and has the cursor. If nats-server was killed while it wrote a
    batch to disk, walk back to the last cursor and remember the events behind it in `stored`.
    Raise NotFoundError if there is no such stream.
    """
    state = (await js.stream_info(stream)).state
    position = Position(seq=state.last_seq)
    stored: list[bytes] = []
    found = False
    for seq in range(state.last_seq, max(state.first_seq, 1) - 1, -1):
        try:
            message = await js.get_msg(stream, seq)
        except NotFoundError:
            continue  # the disk lost the message, or a stream limit has just removed it
        parts = unseal(message.data or b"")
        if parts is None:
            continue  # not a relay's message; `penstock audit verify` reports it
        form, _, digest = parts
        if not found:
            position.hash, found = digest, True
        cursor = cursor_of(message.headers or {})
        if cursor is not None:
            position.cursor = cursor
            break
        stored.append(form)
    position.stored = frozenset(stored)
    return position
