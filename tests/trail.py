"""Penstock's streams as tests look at them: what the audit trail counts, and when all messages are done."""

from collections import Counter

from penstock import audit
from penstock.bus import streams
from running_penstock import RunningPenstock


async def counted_trail(penstock: RunningPenstock) -> Counter[tuple[str, str, str]]:
    """Count the audit events of all that has happened so far, by entity, id and name (in one partition)."""
    last = await penstock.create(kind="test.last", lane="last")
    stream = streams.stream_name(penstock.root, streams.AUDIT)

    async def look() -> Counter[tuple[str, str, str]]:
        end = (await penstock.js.stream_info(stream)).state.last_seq
        pages = audit.pages(penstock.nats, stream, 1, end)
        events = [audit.decode(body) async for page in pages for _, body in page]
        return Counter((event.entity, event.id, event.event) for event in events)

    return await penstock.until(look, lambda seen: seen["execution", last, "created"], "the whole trail")


async def emptied(penstock: RunningPenstock, stream: str) -> None:
    """Wait until all messages of one of Penstock's streams of work have been acknowledged."""
    name = streams.stream_name(penstock.root, stream)
    await penstock.until(
        lambda: penstock.js.stream_info(name), lambda info: not info.state.messages, "all messages done"
    )
