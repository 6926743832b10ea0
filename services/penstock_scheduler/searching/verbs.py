"""execution.search."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.endpoints import Call
from penstock.messages.search import ExecutionSearch
from penstock_scheduler.searching.finder import Finder


class Searches:
    """The handler of execution.search."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    async def search(self, call: Call[ExecutionSearch]) -> Sequence[Any]:
        item = call.items[0]
        return [await self._finder.find(item.filter, item.cursor, item.limit)]
