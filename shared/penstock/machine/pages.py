"""Pages of lists, newest first, over one partition or all partitions, with one cursor.

A page ends at its limit, or before it outgrows one message (lua/core/lists.lua cuts each partition's part likewise).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from penstock.machine.machine import Machine
from penstock.machine.op import Op
from penstock.machine.ops.common import Slice

_pack: Final = msgspec.msgpack.Encoder().encode
PAGE_BYTES: Final = 512 * 1024
"""The most bytes of a page. Only the first item of a page may exceed it."""
SLICE: Final = 50
"""Records that one call examines in each partition: 1 to 2 ms of Valkey's time."""
LOOKS: Final = 20
"""The most calls of one request to each partition: after them the page ends, full or not, with a cursor."""

T = TypeVar("T")
S = TypeVar("S", bound=Slice[Any])
Page = tuple[list[T], str | None]


def _all(reply: Slice[T]) -> list[T]:
    return reply.items


async def one(
    machine: Machine,
    op: type[Op[S]],
    item: Struct,
    id_field: str,
    partition: int,
    sift: Callable[[S], list[T]] = _all,
) -> dict[str, Any]:
    """Return a page from one partition. `op` is made from the fields of the request `item`, and `budget`.

    `sift` returns those items of a reply that belong to the page.

    Return {items, cursor}; the cursor is the uuid part of an item's id, or None at the end. Raise PenstockError.
    """

    async def look(after: str | None, left: int) -> Page[T]:
        reply = await machine.run(_slice(op, item, partition, after, left), at=partition)
        return sift(reply), _uuid(reply.cursor) if reply.cursor else None

    return await _gather(look, item, id_field)


async def newest(
    machine: Machine,
    op: type[Op[S]],
    item: Struct,
    id_field: str,
    sift: Callable[[S], list[T]] = _all,
) -> dict[str, Any]:
    """Return a page over all partitions, newest first, in the form of `one`."""
    everything = range(machine.partitions)

    async def look(after: str | None, left: int) -> Page[T]:
        replies = await machine.all_of([_slice(op, item, p, after, left) for p in everything], everything)
        # Some partition has not been read below `bound` yet, so older items must wait for a later look.
        bound = max((_uuid(reply.cursor) for reply in replies if reply.cursor), default=None)
        items = [item for reply in replies for item in sift(reply)]
        items.sort(key=lambda item: _uuid(getattr(item, id_field)), reverse=True)
        if bound is not None:
            items = [item for item in items if _uuid(getattr(item, id_field)) >= bound]
        if len(items) > left:
            return items[:left], _uuid(getattr(items[left - 1], id_field))
        return items, bound

    return await _gather(look, item, id_field)


async def _gather(
    look: Callable[[str | None, int], Awaitable[Page[T]]], request: Any, id_field: str
) -> dict[str, Any]:
    """Fill a page by several short looks, until it is full or large enough, the list ends, or LOOKS are made."""
    items: list[T] = []
    cursor: str | None = request.cursor
    for _ in range(LOOKS):
        found, cursor = await look(cursor, request.limit - len(items))
        items += found
        end = fitting(items)
        if end < len(items):
            items, cursor = items[:end], _uuid(getattr(items[end - 1], id_field))
            break
        if cursor is None or end == request.limit:
            break
    return {"items": items, "cursor": cursor}


def fitting(items: Sequence[Any]) -> int:
    """Return how many of the items, from the first, fit into one message."""
    size = 0
    for count, item in enumerate(items):
        size += len(_pack(item))
        if count and size > PAGE_BYTES:
            return count
    return len(items)


def _slice(op: type[Op[S]], item: Struct, partition: int, cursor: str | None, limit: int) -> Op[S]:
    after = f"{partition}-{cursor}" if cursor else None
    return op.of(item, cursor=after, limit=min(limit, SLICE), budget=SLICE)


def _uuid(entity_id: str) -> str:
    return entity_id.partition("-")[2]
