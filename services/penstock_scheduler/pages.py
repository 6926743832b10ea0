"""Lists that go over all partitions: newest first, with one cursor.

A page ends at its limit, or before it is more than one message carries (lua/lib/lists.lua cuts each partition's).
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from penstock.store import Store

_encode: Final = msgspec.msgpack.Encoder().encode
PAGE_BYTES: Final = 512 * 1024
"""A page has at least one item, and not more bytes than this with a second one."""
BUDGET: Final = 1000
"""Index entries that one call looks at in each index of each partition: a page may be short, never slow."""


async def one(
    store: Store, partition: int, op: str, args: dict[str, Any], cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of `op` in the one partition that can have any, and the next cursor or None."""
    reply = await store.call(partition, op, _page(args, partition, cursor, limit))
    return reply["items"], _uuid(reply["cursor"]) if "cursor" in reply else None


async def newest(
    store: Store, op: str, args: dict[str, Any], id_field: str, cursor: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of `op` over all partitions, and the next cursor (the uuid part of an id) or None."""
    replies = await asyncio.gather(
        *(
            store.call(partition, op, _page(args, partition, cursor, limit))
            for partition in range(store.partitions)
        )
    )
    # Below `bound` some partition has not been read yet.
    bound = max((_uuid(reply["cursor"]) for reply in replies if "cursor" in reply), default=None)
    items = [item for reply in replies for item in reply["items"]]
    items.sort(key=lambda item: _uuid(item[id_field]), reverse=True)
    if bound is not None:
        items = [item for item in items if _uuid(item[id_field]) >= bound]
    end = min(limit, fitting(items))
    if len(items) > end:
        return items[:end], _uuid(items[end - 1][id_field])
    return items, bound


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
        "limit": limit,
        "budget": max(BUDGET, limit),
    }


def _uuid(entity_id: str) -> str:
    return entity_id.partition("-")[2]
