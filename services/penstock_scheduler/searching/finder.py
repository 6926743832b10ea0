"""Finds executions by a filter: from a filter of the contract to looks at the narrowest index that there is."""

import re
from collections.abc import Awaitable, Callable
from typing import Final

from penstock.errors import invalid
from penstock.ids import ID_PATTERN, partition_of
from penstock.machine import Machine, pages
from penstock.machine.ops import scheduler as ops
from penstock.messages.search import ExecutionFilter, ExecutionRow, Found
from penstock.messages.statistics import FailureGroup
from penstock.statistics.reasons import normalized

_is_id: Final = re.compile(ID_PATTERN).match
EARLY_MS: Final = 60_000
LATE_MS: Final = 10_000
"""An execution is created up to a minute after its id was made (a retried request keeps its id), and up to some seconds
before the time in it (clocks are estimates). So the index, which knows ids only, is cut with this much to spare."""

Groups = Callable[[str], Awaitable[FailureGroup | None]]
"""Returns the failure group with this id, or None."""


class Finder:
    """Finds executions, newest first."""

    def __init__(self, machine: Machine, groups: Groups) -> None:
        self._machine = machine
        self._groups = groups

    async def find(self, wanted: ExecutionFilter, cursor: str | None, limit: int) -> Found:
        """Return the next page. Raise `invalid_request` for a failure group that does not exist, naming the field."""
        search = _search(wanted, cursor, limit)
        group = await self._group(wanted, search)
        found = Found()

        def sift(here: ops.FoundHere) -> list[ExecutionRow]:
            found.looked += here.looked
            if group is None:
                return here.items
            return [row for row in here.items if _is_of(row, group)]

        if cursor is None and (only := await self._by_id(wanted, search)) is not None:
            found.items = sift(only)
            return found
        if search.states == []:  # no state is both asked for and possible
            return found
        # Members live in the partition of their flow, and children in that of their parent.
        if (kin := wanted.flow_id or wanted.parent_id) is not None:
            home = partition_of(kin)
            page = await pages.one(self._machine, ops.Search, search, "execution_id", home, sift)
        else:
            page = await pages.newest(self._machine, ops.Search, search, "execution_id", sift)
        found.items, found.cursor = page["items"], page["cursor"]
        found.looked_to = None if found.cursor is None else created_at(found.cursor)
        return found

    async def check(self, wanted: ExecutionFilter) -> None:
        """Raise `invalid_request` if the filter names a failure group that does not exist."""
        await self._group(wanted, _search(wanted, None, 1))

    async def _group(self, wanted: ExecutionFilter, search: ops.Search) -> FailureGroup | None:
        """Narrow the search to the filter's failure group, and return that group, if the filter names one."""
        if wanted.failure_group is None:
            return None
        group = await self._groups(wanted.failure_group)
        if group is None:
            raise invalid("filter.failure_group", "there is no such group (any more): see failure.groups")
        same = (
            wanted.failure_category in (None, group.category)
            and wanted.namespace in (None, group.namespace)
            and (wanted.kind in (None, group.kind) or _takes(wanted.kind, group.kind))
        )
        states = ["failed"] if wanted.states is None else [each for each in wanted.states if each == "failed"]
        search.category, search.namespace, search.kind = group.category, group.namespace, group.kind
        search.kind_prefix, search.states = None, states if same else []
        return group

    async def _by_id(self, wanted: ExecutionFilter, search: ops.Search) -> ops.FoundHere | None:
        """Return the execution whose id is the filter's text, if there is one that matches."""
        if search.text is None or not _is_id(search.text):
            return None
        home = partition_of(search.text)
        if home >= self._machine.partitions:
            return None
        look = ops.Search.of(search, only=search.text, budget=1)
        found = await self._machine.run(look, at=home)
        return found if found.items else None


def _search(wanted: ExecutionFilter, cursor: str | None, limit: int) -> ops.Search:
    kind = wanted.kind
    prefix = None
    if kind is not None and kind.endswith(".*"):
        kind, prefix = None, kind[:-1]
    if cursor is None:
        ends = [at for at in (wanted.created_until, wanted.finished_until) if at is not None]
        cursor = _first_id(min(ends) + LATE_MS) if ends else None
    search = ops.Search.of(
        wanted,
        kind=kind,
        kind_prefix=prefix,
        text=None if wanted.text is None else wanted.text.lower(),
        category=wanted.failure_category,
        cursor=cursor,
        limit=limit,
        budget=0,
    )
    if wanted.created_from is not None:
        search.oldest = _first_id(wanted.created_from - EARLY_MS)
    return search


def _first_id(at: int) -> str:
    """Return what sorts before the uuid of every id that is made at this instant (ms) or later."""
    stamp = f"{max(0, min(at, 2**48 - 1)):012x}"
    return f"{stamp[:8]}-{stamp[8:]}-0000-0000-000000000000"


def created_at(uuid: str) -> int:
    """Return the time in a version 7 UUID, in milliseconds since the Unix epoch."""
    return int(uuid[:8] + uuid[9:13], 16)


def _takes(pattern: str | None, kind: str) -> bool:
    return pattern is not None and pattern.endswith(".*") and kind.startswith(pattern[:-1])


def _is_of(row: ExecutionRow, group: FailureGroup) -> bool:
    return normalized(str((row.failure or {}).get("reason") or "")) == group.reason
