"""Lists: pages of what one partition has, or all have, newest first, with one cursor.

A page ends at its limit, or before it is more than one message carries (lua/core/lists.lua cuts each partition's).
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
"""A page has at least one item, and not more bytes than this with a second one."""
SLICE: Final = 50
"""Records that one call looks at in each partition: 1 to 2 ms of Valkey."""
LOOKS: Final = 20
"""Calls of one request for each partition: then its page ends, full or not, and has a cursor."""

T = TypeVar("T")
Page = tuple[list[T], str | None]


async def one(
    machine: Machine, op: type[Op[Slice[T]]], item: Struct, id_field: str, partition: int
) -> dict[str, Any]:
    """A page from the one partition that can have any. `op` takes the fields of the request `item`, and `budget`.

    Answers {items, cursor}; the cursor is the uuid part of an item's id, or None at the end. Raises PenstockError.
    """

    async def look(after: str | None, left: int) -> Page[T]:
        reply = await machine.run(_slice(op, item, partition, after, left), at=partition)
        return reply.items, _uuid(reply.cursor) if reply.cursor else None

    return await _gather(look, item, id_field)


async def newest(machine: Machine, op: type[Op[Slice[T]]], item: Struct, id_field: str) -> dict[str, Any]:
    """A page over all partitions, newest first. As `one`."""
    everything = range(machine.partitions)

    async def look(after: str | None, left: int) -> Page[T]:
        replies = await machine.all_of([_slice(op, item, p, after, left) for p in everything], everything)
        # Below `bound` some partition has not been read yet.
        bound = max((_uuid(reply.cursor) for reply in replies if reply.cursor), default=None)
        items = [item for reply in replies for item in reply.items]
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
    """A page of several looks, each of which costs Valkey little: until it is full, large enough, or at the end."""
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
    """How many of them one message carries."""
    size = 0
    for count, item in enumerate(items):
        size += len(_pack(item))
        if count and size > PAGE_BYTES:
            return count
    return len(items)


def _slice(
    op: type[Op[Slice[T]]], item: Struct, partition: int, cursor: str | None, limit: int
) -> Op[Slice[T]]:
    after = f"{partition}-{cursor}" if cursor else None
    return op.of(item, cursor=after, limit=min(limit, SLICE), budget=SLICE)


def _uuid(entity_id: str) -> str:
    return entity_id.partition("-")[2]
