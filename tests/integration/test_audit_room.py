"""How full the audit stream is, from a real one: told before the oldest events go, and while they do."""

from typing import Any

from nats.aio.client import Client

from penstock.audit import Room, room
from penstock.bus import streams
from penstock_audit_relay.room import RoomWatch


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, line: str, **_: Any) -> None:
        self.lines.append(line)

    warning = error


async def test_nearly_full_and_full(client: Client, root: str) -> None:
    js, log = client.jetstream(), Log()
    name = streams.stream_name(root, streams.AUDIT)
    watch = RoomWatch(client, name, lambda: True, log)
    await watch.look()
    assert watch.seen is None and watch.full() == 0.0 and not log.lines  # there is no such stream yet

    await streams.ensure(js, root, bounds=streams.Bounds(audit_bytes=100_000, audit_age_s=3600.0))
    await watch.look()
    assert watch.full() == 0.0

    async def publish(count: int) -> None:
        for _ in range(count):
            await js.publish(f"{root}.audit.default.execution.created.x", b"x" * 9_000)

    await publish(8)
    await watch.look()
    assert 0.7 < watch.full() < 0.8 and not log.lines
    await publish(1)
    await watch.look()
    assert 0.8 < watch.full() < 1 and watch.bytes() > 81_000
    await watch.look()  # it is not told again at once
    (line,) = log.lines
    assert "will soon lose its oldest events: raise PENSTOCK_AUDIT_MAX_BYTES" in line

    await publish(6)
    await watch.look()
    await watch.look()
    seen = await room(client, name)
    assert seen is not None and seen.first_seq > 1
    assert log.lines == [line, seen.warning()] and "full and loses its oldest events" in seen.warning()
    for other in streams.definitions(root):
        await js.delete_stream(str(other.name))


def test_age_counts_too() -> None:
    old = Room(bytes=10, max_bytes=1000, age_s=90.0, max_age_s=100.0, first_seq=1)
    assert old.full == 0.9 and "raise PENSTOCK_AUDIT_MAX_AGE_MS" in old.warning()
    unbounded = Room(bytes=10**12, max_bytes=-1, age_s=10**9, max_age_s=0, first_seq=1)
    assert unbounded.full == 0.0 and unbounded.warning() == ""
