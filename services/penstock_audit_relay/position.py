"""Where to go on: read from the end of the audit stream, which is the only place that knows."""

from typing import Final

import msgspec
from msgspec import Struct
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from penstock.audit import CURSOR_HEADER, GENESIS, unseal

_cursor: Final = msgspec.json.Decoder(dict[int, str], strict=False).decode


class Position(Struct):
    """The stream's end."""

    seq: int = 0
    hash: bytes = GENESIS
    cursor: dict[int, str] = {}
    """Per partition, the last outbox entry whose events are all in the stream."""
    stored: frozenset[bytes] = frozenset()
    """Canonical forms of events after the cursor that are in the stream all the same."""


async def recover(js: JetStreamContext, stream: str) -> Position:
    """The position after the last event in the stream.

    The last message is a batch's last and has the cursor, unless nats-server was killed while it wrote a
    batch to its disk: then this walks back to the last cursor and remembers the events in between.
    Raises NotFoundError when there is no such stream.
    """
    state = (await js.stream_info(stream)).state
    position = Position(seq=state.last_seq)
    stored: list[bytes] = []
    found = False
    for seq in range(state.last_seq, max(state.first_seq, 1) - 1, -1):
        try:
            message = await js.get_msg(stream, seq)
        except NotFoundError:
            continue  # lost by the disk, or a limit has just removed it
        parts = unseal(message.data or b"")
        if parts is None:
            continue  # somebody else's message: `penstock audit verify` will tell
        form, _, digest = parts
        if not found:
            position.hash, found = digest, True
        cursor = (message.headers or {}).get(CURSOR_HEADER)
        if cursor is not None:
            position.cursor = _cursor(cursor)
            break
        stored.append(form)
    position.stored = frozenset(stored)
    return position
