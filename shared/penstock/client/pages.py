"""Lists as async iterators: the next page is fetched when the last one is used up."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from penstock.bus.requester import Requester
from penstock.messages.common import Page, Request
from penstock.verbs import Verb

T = TypeVar("T")


async def each(
    requester: Requester, verb: Verb[Any, Page[T]], request: Callable[[str | None], Request]
) -> AsyncIterator[T]:
    """Every item of every page. `request(cursor)` asks for one page."""
    cursor: str | None = None
    while True:
        page = await requester.call(verb, request(cursor))
        for item in page.items:
            yield item
        cursor = page.cursor
        if cursor is None:
            return
