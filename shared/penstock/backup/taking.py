"""Take a backup: the order that makes it one point in time (docs/backup.md says why)."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from nats.aio.client import Client

from penstock import __version__
from penstock.backup import jetstream
from penstock.backup.folder import BackupError, Folder, Manifest, Sink, Stream
from penstock.backup.jetstream import LIMITS, QUEUES
from penstock.backup.valkey import Valkey
from penstock.bus.streams import stream_name
from penstock.store import LIBRARY_VERSION

KEYS: Final = "valkey.keys"
TAIL_ROUNDS: Final = 2

Tell = Callable[[str], object]


class Taken(Struct, kw_only=True):
    """What was backed up. keys: as counted while they changed. stood_still_ms: how long Valkey took no writes."""

    keys: int
    bytes: int
    messages: int
    stood_still_ms: int
    seconds: float


class _Copy(Struct):
    """One stream's copy that is under way."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    tail: Sink
    last_seq: int
    queue: bool
    first_seq: int = 0
    deleted: list[int] = []


async def back_up(
    path: Path, nats: Client, valkey_url: str, root: str, *, pause_ms: int, tell: Tell
) -> Taken:
    """Copy a running Penstock into a new folder. `tell(text)` hears what is being done.

    Writes to Valkey stand still at the end, at most `pause_ms` (normally a few hundredths of a second). Raise
    BackupError; then nothing is left of the folder's files.
    """
    began, began_at = time.monotonic(), time.time()
    folder = Folder(path)
    folder.make()
    try:
        async with AsyncExitStack() as stack:
            valkey = await stack.enter_async_context(Valkey.open(valkey_url))
            prefix = root + ":{"
            if not await valkey.any_key(prefix):
                raise BackupError(f"there is no Penstock under the root {root!r} in this Valkey")
            await valkey.track(prefix)
            with ExitStack() as files:
                tell("copying keys")
                sink = files.enter_context(folder.writing(KEYS))
                keys = await valkey.scan(prefix, sink)
                await valkey.catch_up(sink)
                tell("copying streams")
                # Late, so that their tails are short: a restore publishes those one by one.
                copies = [
                    await _snapshot(nats, folder, files, stream_name(root, stream), stream in QUEUES)
                    for stream in (*QUEUES, *LIMITS)
                ]
                for _ in range(TAIL_ROUNDS):
                    await asyncio.gather(*(_follow(nats, copy) for copy in copies))
                    await valkey.catch_up(sink)
                tell("copying the rest while writes stand still")
                point_at, stood_still = await _stand_still(nats, valkey, sink, copies, pause_ms)
            found = nats.connected_server_version
            manifest = Manifest(
                penstock=__version__,
                library=LIBRARY_VERSION,
                valkey=await valkey.version(),
                nats=".".join(map(str, (found.major, found.minor, found.patch))),
                root=root,
                began_at=int(began_at * 1000),
                point_at=point_at,
                stood_still_ms=stood_still,
                keys=KEYS,
                streams={copy.name: _stream(copy) for copy in copies},
                files=folder.files,
            )
            folder.finish(manifest)
    except BaseException:
        folder.discard()
        raise
    return Taken(
        keys=keys,
        bytes=sum(file.bytes for file in folder.files.values()),
        messages=sum(copy.state["messages"] for copy in copies),
        stood_still_ms=stood_still,
        seconds=time.monotonic() - began,
    )


async def _snapshot(nats: Client, folder: Folder, files: ExitStack, name: str, queue: bool) -> _Copy:
    # A queue is restored with what nobody had acknowledged: a new consumer takes exactly that. A consumer's own state,
    # saved at another moment than the messages, could pass over some.
    with folder.writing(f"{name}.snapshot") as sink:
        answer = await jetstream.snapshot(nats, name, sink, consumers=not queue)
    tail = files.enter_context(folder.writing(f"{name}.tail"))
    return _Copy(name, answer.config, answer.state, tail, answer.state["last_seq"], queue)


async def _follow(nats: Client, copy: _Copy) -> None:
    """Append to the tail what the stream has got since."""
    copy.last_seq = await jetstream.tail(nats, copy.name, copy.last_seq, copy.tail, direct=not copy.queue)


async def _stand_still(
    nats: Client, valkey: Valkey, sink: Sink, copies: list[_Copy], pause_ms: int
) -> tuple[int, int]:
    """Stop writes, copy what is left, let writes go on. Return the time by Valkey's clock, and for how long (ms)."""
    began = time.monotonic()
    async with valkey.standing_still(pause_ms, sink) as point_at:
        await _finish(nats, copies)
    stood_still = (time.monotonic() - began) * 1000
    if stood_still >= pause_ms:  # then Valkey itself has let writes go on
        raise BackupError(
            f"writes stood still for {pause_ms} ms, which was not enough: allow more (--pause), or try when less is"
            " done"
        )
    return point_at, round(stood_still)


async def _finish(nats: Client, copies: list[_Copy]) -> None:
    """Read the streams' ends, DEAD's last: a letter is stored before its message or outbox entry counts as done."""

    async def of_queue(copy: _Copy) -> None:
        await _follow(nats, copy)
        copy.first_seq, copy.deleted = await jetstream.unapplied(nats, copy.name)

    *queues, trail, dead = copies
    await asyncio.gather(*(of_queue(copy) for copy in queues))
    await _follow(nats, trail)
    await _follow(nats, dead)


def _stream(copy: _Copy) -> Stream:
    return Stream(
        config=copy.config,
        state=copy.state,
        snapshot=f"{copy.name}.snapshot",
        tail=f"{copy.name}.tail",
        last_seq=copy.last_seq,
        first_seq=copy.first_seq,
        deleted=copy.deleted,
    )
