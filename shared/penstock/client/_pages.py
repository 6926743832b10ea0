"""Paged lists as async iterators: a page is fetched when the previous one is used up."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from penstock import errors
from penstock.bus.requester import Requester
from penstock.messages.common import Page
from penstock.verbs import Verb

T = TypeVar("T")


async def each(
    requester: Requester, verb: Verb[Any, Page[T]], request: Callable[[str | None], Any]
) -> AsyncIterator[T]:
    """Yield every item of every page. `request(cursor)` builds the request for one page of `limit` items.

    If a page does not fit into one message, the limit is lowered and the page is requested again.
    """
    cursor: str | None = None
    most: int | None = None
    while True:
        ask = request(cursor)
        if most is not None:
            ask.limit = most
        try:
            page = await requester.call(verb, ask)
        except errors.PenstockError as error:
            if error.code != "payload_too_large" or ask.limit == 1:
                raise
            size, room = error.detail.get("size", 2), error.detail.get("limit", 1)
            most = max(1, min(ask.limit * room // size, ask.limit // 2))
            continue
        for item in page.items:
            yield item
        cursor = page.cursor
        if cursor is None:
            return
