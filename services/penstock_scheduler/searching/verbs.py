"""execution.search."""

import asyncio
from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.messages.search import ExecutionSearch
from penstock_scheduler.searching.finder import Finder


class Searches:
    """The handler of execution.search."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    async def search(self, call: Call[ExecutionSearch]) -> Sequence[Any]:
        pages = (self._finder.find(item.filter, item.cursor, item.limit) for item in call.items)
        return await asyncio.gather(*pages, return_exceptions=True)
