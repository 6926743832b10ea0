"""The NATS side: snapshots of streams (JetStream's own protocol), and the messages that came after them.

A snapshot is a request to `$JS.API.STREAM.SNAPSHOT.<stream>`: the server publishes the stream, with sequences and
times as they are, in pieces to a subject of ours, and waits for an answer to each piece; an empty one is the end. A
restore sends the pieces back, each as a request, to the subject that `$JS.API.STREAM.RESTORE.<stream>` names.
nats-py has neither.
"""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from penstock import audit
from penstock.backup.folder import BackupError, Sink, Stream
from penstock.bus import streams
from penstock.bus.listening import listen

PIECE: Final = 128 * 1024
PIECE_S: Final = 30.0
TAIL_S: Final = 10.0
WINDOW: Final = 500
"""So many messages of a tail, or deletions, are under way at once."""
QUEUES: Final = (streams.SIGNALS, streams.OBSERVATIONS, streams.EVENTS_IN)
LIMITS: Final = (streams.AUDIT, streams.DEAD)

Tail = tuple[int, str, dict[str, str], bytes]
"""Stream sequence, subject, headers, body."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Tail).decode
_length: Final = struct.Struct(">I")
# What was only for the moment of its publication: the server would act on it again.
_ONCE: Final = ("nats-expected-", "nats-batch-")


class _Answer(msgspec.Struct):
    config: dict[str, Any] = {}
    state: dict[str, Any] = {}
    deliver_subject: str = ""
    consumers: list[dict[str, Any]] = []
    error: dict[str, Any] | None = None


_answer: Final = msgspec.json.Decoder(_Answer).decode


async def _api(nats: Client, subject: str, request: Any) -> _Answer:
    try:
        reply = await nats.request(f"$JS.API.{subject}", msgspec.json.encode(request), timeout=PIECE_S)
    except (NatsError, TimeoutError) as error:
        raise BackupError(f"JetStream: {subject}: {error or 'no answer'}") from None
    answer = _answer(reply.data)
    if answer.error is not None:
        raise BackupError(f"JetStream: {subject}: {answer.error.get('description')}")
    return answer


async def snapshot(nats: Client, name: str, sink: Sink, *, consumers: bool) -> _Answer:
    """Write a snapshot of the stream. Return its configuration, and its state when the snapshot began.

    Raise BackupError.
    """
    inbox = nats.new_inbox()
    pieces: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await listen(nats, inbox, pieces.put_nowait)
    try:
        request = {"deliver_subject": inbox, "no_consumers": not consumers, "chunk_size": PIECE}
        answer = await _api(nats, f"STREAM.SNAPSHOT.{name}", request)
        while True:
            try:
                piece = await asyncio.wait_for(pieces.get(), PIECE_S)
            except TimeoutError:
                raise BackupError(f"JetStream stopped sending the snapshot of {name}") from None
            if not piece.data:
                status = (piece.headers or {}).get("Status", "204")
                if status not in ("200", "204"):
                    said = (piece.headers or {}).get("Description", status)
                    raise BackupError(f"JetStream gave up the snapshot of {name}: {said}")
                return answer
            sink.write(piece.data)
            if piece.reply:
                await nats.publish(piece.reply)
    finally:
        await subscription.unsubscribe()


async def last_seq(nats: Client, name: str) -> int:
    """Return the stream's last sequence, as the stream's leader knows it."""
    return int((await _api(nats, f"STREAM.INFO.{name}", {})).state["last_seq"])


async def tail(nats: Client, name: str, after: int, sink: Sink, *, direct: bool) -> int:
    """Append the messages after a sequence that the stream has now; return its last sequence. Raise BackupError.

    `direct`: with direct gets, for streams that allow them and of which nothing was deleted; else message by message.
    """
    goal = await last_seq(nats, name)
    try:
        async with asyncio.timeout(TAIL_S):
            if direct:
                # A replica that answers may be a little behind the leader: then once more.
                while after < goal:
                    async for page in audit.stored(nats, name, after + 1, goal):
                        for message in page:
                            _append(sink, (message.seq, message.subject, message.headers, message.body))
                        after = page[-1].seq
            for begin in range(after + 1, goal + 1, WINDOW):
                seqs = range(begin, min(begin + WINDOW, goal + 1))
                for message in await asyncio.gather(*(_get(nats, name, seq) for seq in seqs)):
                    if message is not None:
                        _append(sink, message)
    except (NatsError, TimeoutError) as error:
        raise BackupError(f"JetStream: {name} cannot be read: {error or 'no answer'}") from None
    return goal


async def _get(nats: Client, name: str, seq: int) -> Tail | None:
    try:
        message = await nats.jetstream().get_msg(name, seq)
    except NotFoundError:
        return None
    return seq, message.subject or "", cast("dict[str, str]", message.headers or {}), message.data or b""


def _append(sink: Sink, message: Tail) -> None:
    record = _encode(message)
    sink.write(_length.pack(len(record)) + record)


async def unapplied(nats: Client, name: str) -> tuple[int, list[int]]:
    """Return what a queue still has to apply: its first sequence, and the later ones that it has not.

    What its consumer has acknowledged stays in the stream for a moment (`penstock.bus.trimming`).
    """
    state = (await _api(nats, f"STREAM.INFO.{name}", {"deleted_details": True})).state
    consumers = (await _api(nats, f"CONSUMER.LIST.{name}", {})).consumers
    acknowledged = min((each["ack_floor"]["stream_seq"] for each in consumers), default=0)
    first = max(state["first_seq"], acknowledged + 1)
    deleted: list[int] = state.get("deleted") or []
    return first, [seq for seq in deleted if seq > first]


# -- and back ----------------------------------------------------------------------------------------


async def restore(nats: Client, name: str, stream: Stream, folder: Path) -> None:
    """Make the stream anew as it was at the backup's point in time. Raise BackupError."""
    # A stream of three replicas cannot be made on one server. Services set the number of replicas when they start.
    config = {**stream.config, "num_replicas": 1, "placement": None}
    answer = await _api(nats, f"STREAM.RESTORE.{name}", {"config": config, "state": stream.state})
    with (folder / stream.snapshot).open("rb") as file:
        while True:
            piece = file.read(PIECE)
            try:
                reply = await nats.request(answer.deliver_subject, piece, timeout=PIECE_S)
            except (NatsError, TimeoutError) as error:
                raise BackupError(
                    f"JetStream: the restore of {name} broke off: {error or 'no answer'}"
                ) from None
            if reply.data and (error := _answer(reply.data).error) is not None:
                raise BackupError(f"JetStream: {name} cannot be restored: {error.get('description')}")
            if not piece:
                break
    await _publish(nats, name, stream, folder / stream.tail)
    if (found := await last_seq(nats, name)) != stream.last_seq:
        raise BackupError(f"JetStream: {name} ends at {found} after the restore, not {stream.last_seq}")
    await _remove_applied(nats, name, stream)


async def _publish(nats: Client, name: str, stream: Stream, path: Path) -> None:
    """Publish the tail's messages that are not in the snapshot already.

    Their sequences must be the old ones, since they are part of the ids of messages without `Nats-Msg-Id`. So fillers
    stand in for those that had left a queue; they are deleted afterwards.
    """
    js = nats.jetstream()
    next_seq = await last_seq(nats, name) + 1
    filler: Tail = (0, stream.config["subjects"][0].replace(">", "filler"), {}, b"")
    under_way: list[asyncio.Task[Any]] = []
    for message in itertools.chain(_messages(path), [(stream.last_seq + 1, "", {}, b"")]):
        while next_seq <= min(message[0], stream.last_seq):
            _, subject, headers, body = message if next_seq == message[0] else filler
            kept = {key: value for key, value in headers.items() if not key.lower().startswith(_ONCE)}
            kept["Nats-Expected-Last-Sequence"] = str(next_seq - 1)
            publishing = js.publish(_published(subject, body), body, timeout=PIECE_S, headers=kept)
            under_way.append(asyncio.ensure_future(publishing))
            next_seq += 1
        if len(under_way) >= WINDOW:
            await asyncio.gather(*under_way)
            under_way = []
    await asyncio.gather(*under_way)


def _published(subject: str, body: bytes) -> str:
    """Return the subject on which a message was published: stored subjects of the audit stream lack the entity's id."""
    root, _, rest = subject.partition(".")
    if not rest.startswith("audit."):
        return subject
    if audit.unseal(body) is None:
        return f"{subject}.unknown"
    event = audit.decode(body)
    return f"{root}.audit.{audit.tokens(event.namespace, event.entity, event.event, event.id)}"


async def _remove_applied(nats: Client, name: str, stream: Stream) -> None:
    """Remove from a queue what had been applied at the point in time."""
    js = nats.jetstream()
    if stream.first_seq > 1:
        await js.purge_stream(name, seq=stream.first_seq)
    first_seq, gone = await unapplied(nats, name)
    left = sorted({seq for seq in stream.deleted if seq >= first_seq}.difference(gone))
    for begin in range(0, len(left), WINDOW):
        await asyncio.gather(*(js.delete_msg(name, seq) for seq in left[begin : begin + WINDOW]))


def _messages(path: Path) -> Iterator[Tail]:
    with path.open("rb") as file:
        while head := file.read(_length.size):
            yield _decode(file.read(_length.unpack(head)[0]))
