"""Lists that go over all partitions: newest first, with one cursor.

A page ends at its limit, or before it is more than one message carries (lua/core/lists.lua cuts each partition's).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from penstock.store import Store

_encode: Final = msgspec.msgpack.Encoder().encode
PAGE_BYTES: Final = 512 * 1024
"""A page has at least one item, and not more bytes than this with a second one."""
SLICE: Final = 50
"""Records that one call looks at in each partition: 1 to 2 ms of Valkey."""
LOOKS: Final = 20
"""Calls of one request for each partition: then its page ends, full or not, and has a cursor."""


async def one(
    store: Store, partition: int, op: str, args: dict[str, Any], id_field: str, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of `op` in the one partition that can have any, and the next cursor or None."""

    async def look(after: str | None, left: int) -> tuple[list[dict[str, Any]], str | None]:
        reply = await store.call(partition, op, _page(args, partition, after, left))
        return reply["items"], _uuid(reply["cursor"]) if "cursor" in reply else None

    return await _gather(look, id_field, cursor, limit)


async def newest(
    store: Store, op: str, args: dict[str, Any], id_field: str, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of `op` over all partitions, and the next cursor (the uuid part of an id) or None."""

    async def look(after: str | None, left: int) -> tuple[list[dict[str, Any]], str | None]:
        replies = await asyncio.gather(
            *(
                store.call(partition, op, _page(args, partition, after, left))
                for partition in range(store.partitions)
            )
        )
        # Below `bound` some partition has not been read yet.
        bound = max((_uuid(reply["cursor"]) for reply in replies if "cursor" in reply), default=None)
        items = [item for reply in replies for item in reply["items"]]
        items.sort(key=lambda item: _uuid(item[id_field]), reverse=True)
        if bound is not None:
            items = [item for item in items if _uuid(item[id_field]) >= bound]
        if len(items) > left:
            return items[:left], _uuid(items[left - 1][id_field])
        return items, bound

    return await _gather(look, id_field, cursor, limit)


async def _gather(
    look: Callable[[str | None, int], Awaitable[tuple[list[dict[str, Any]], str | None]]],
    id_field: str,
    cursor: str | None,
    limit: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of several looks, each of which costs Valkey little: until it is full, large enough, or at the end."""
    items: list[dict[str, Any]] = []
    for _ in range(LOOKS):
        found, cursor = await look(cursor, limit - len(items))
        items += found
        end = fitting(items)
        if end < len(items):
            return items[:end], _uuid(items[end - 1][id_field])
        if cursor is None or end == limit:
            break
    return items, cursor


def fitting(items: Sequence[Any]) -> int:
    """How many of them one message carries."""
    size = 0
    for count, item in enumerate(items):
        size += len(_encode(item))
        if count and size > PAGE_BYTES:
            return count
    return len(items)


def _page(args: dict[str, Any], partition: int, cursor: str | None, limit: int) -> dict[str, Any]:
    return {
        **args,
        "cursor": f"{partition}-{cursor}" if cursor else None,
        "limit": min(limit, SLICE),
        "budget": SLICE,
    }


def _uuid(entity_id: str) -> str:
    return entity_id.partition("-")[2]
