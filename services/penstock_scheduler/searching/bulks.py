"""execution.bulk, bulk.get, .list and .stop; and the steps of bulk changes, which the due loop hands out.

A step finds some executions, changes them, and notes how far it is. A scheduler that is killed in between leaves the
step to be handed out again: each change has the same effect when it is repeated.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from penstock.bus.calls import Call
from penstock.errors import PenstockError, invalid, make
from penstock.machine import Machine, pages
from penstock.machine.idempotency import digest, home_for
from penstock.machine.ops import scheduler as ops
from penstock.messages.search import (
    BULK_PAYLOAD_BYTES,
    Bulk,
    BulkGet,
    BulkList,
    ExecutionBulk,
    ExecutionFilter,
)
from penstock.who import asking
from penstock_scheduler.searching.actions import change
from penstock_scheduler.searching.finder import Finder

STEP: Final = 50
"""The most executions of one step."""
_NEEDS: Final = {
    "reason": ("cancel", "suspend", "resume", "revoke", "signal"),
    "grace_ms": ("cancel",),
    "priority": ("change_priority",),
    "tags": ("set_tags",),
    "name": ("signal",),
    "payload": ("signal",),
    "waitpoint_key": ("signal",),
}
_filter: Final = msgspec.json.Decoder(ExecutionFilter).decode


class Bulks:
    """Handlers for bulk changes, and their steps."""

    def __init__(
        self, machine: Machine, finder: Finder, spawn: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._machine = machine
        self._finder = finder
        self._spawn = spawn
        self._stepping: set[str] = set()

    async def create(self, call: Call[ExecutionBulk]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._create, call.items), return_exceptions=True)

    async def _create(self, item: ExecutionBulk) -> Bulk:
        machine = self._machine
        _check(item)
        await self._finder.check(item.filter)
        namespace = item.filter.namespace or "default"
        create = ops.BulkCreate.of(
            item,
            id=machine.new_id(home_for(namespace, item.idempotency_key, machine.partitions)),
            namespace=namespace,
            filter=msgspec.json.encode(item.filter).decode(),
            digest=digest(item),
        )
        return _view(await machine.run(create))

    async def get(self, call: Call[BulkGet]) -> Sequence[Any]:
        return [_view(await self._machine.run(ops.BulkGet.of(call.items[0])))]

    async def list(self, call: Call[BulkList]) -> Sequence[Any]:
        page = await pages.newest(self._machine, ops.BulkList, call.items[0], "bulk_id")
        return [page | {"items": [_view(each) for each in page["items"]]}]

    async def stop(self, call: Call[BulkGet]) -> Sequence[Any]:
        return [_view(await self._machine.run(ops.BulkStop(bulk_id=call.items[0].bulk_id)))]

    def due(self, bulk_ids: Sequence[str]) -> None:
        """Make the next steps of these bulk changes."""
        for bulk_id in bulk_ids:
            if bulk_id not in self._stepping:
                self._spawn(self._step(bulk_id))

    async def _step(self, bulk_id: str) -> None:
        self._stepping.add(bulk_id)
        try:
            bulk = await self._machine.run(ops.BulkGet(bulk_id=bulk_id))
            if bulk.status == "running":
                asking.set(bulk.by)  # this task's own; what it changes has the user as actor
                await self._machine.run(await self._made(bulk))
        except PenstockError:
            pass  # it is handed out again
        finally:
            self._stepping.discard(bulk_id)

    async def _made(self, bulk: ops.BulkKept) -> ops.BulkAdvance:
        """Change the next executions. Raise PenstockError when the step has to be repeated."""
        wanted = _filter(bulk.filter)
        wanted.created_until = min(wanted.created_until or bulk.created_at + 1, bulk.created_at + 1)
        left = STEP if bulk.most is None else min(STEP, bulk.most - bulk.done - bulk.refused)
        limit = min(left, bulk.rate)
        advance = ops.BulkAdvance(
            bulk_id=bulk.bulk_id, step=bulk.step, looked=0, done=0, refused=0, pause_ms=0
        )
        try:
            found = await self._finder.find(wanted, bulk.cursor, limit)
        except PenstockError as error:
            if error.error_class != "invalid":
                raise
            # The filter names a failure group that has been forgotten meanwhile: there is nothing more to find.
            advance.last_error = {"code": error.code, "message": error.message}
            return advance
        for row, changed in zip(found.items, await change(self._machine, bulk, found.items), strict=True):
            if not isinstance(changed, PenstockError):
                advance.done += 1
            elif changed.error_class in ("unavailable", "internal"):
                raise changed
            else:
                advance.refused += 1
                told = {"code": changed.code, "message": changed.message, "execution_id": row.execution_id}
                advance.last_error = told
        advance.looked, advance.looked_to = found.looked, found.looked_to
        enough = bulk.most is not None and bulk.done + bulk.refused + len(found.items) >= bulk.most
        advance.cursor = None if enough else found.cursor
        advance.pause_ms = round(1000 * len(found.items) / bulk.rate)
        return advance


def _view(kept: ops.BulkKept) -> Bulk:
    fields = {name: getattr(kept, name) for name in Bulk.__struct_fields__ if name != "filter"}
    return Bulk(filter=_filter(kept.filter), **fields)


def _payload(item: ExecutionBulk) -> str | None:
    """Return the payload as the request decoder made it: JSON text, or None for null."""
    return None if item.payload is None else str(item.payload)


def _check(item: ExecutionBulk) -> None:
    """Raise `invalid_request`, naming the field, if the fields do not fit together; or `payload_too_large`."""
    payload = _payload(item)
    given = {
        "reason": item.reason != "",
        "grace_ms": item.grace_ms is not None,
        "priority": item.priority is not None,
        "tags": item.tags is not None,
        "name": item.name is not None,
        "payload": payload is not None,
        "waitpoint_key": item.waitpoint_key is not None,
    }
    for name, actions in _NEEDS.items():
        if given[name] and item.action not in actions:
            raise invalid(name, f"goes with {', '.join(actions)} only")
    if item.action == "change_priority" and item.priority is None:
        raise invalid("priority", "change_priority needs it")
    if item.action == "set_tags" and not item.tags:
        raise invalid("tags", "set_tags needs some")
    if item.action == "signal" and item.name is None:
        raise invalid("name", "signal needs it")
    if payload is not None and (size := len(payload.encode())) > BULK_PAYLOAD_BYTES:
        raise make(
            "payload_too_large",
            f"payload has {size} bytes; the limit of a bulk change is {BULK_PAYLOAD_BYTES}",
            detail={"field": "payload", "limit": BULK_PAYLOAD_BYTES, "size": size},
        )
