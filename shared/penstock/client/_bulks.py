"""`client.bulks`: changes to all executions that match a filter, made in the background."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.client._pages import each
from penstock.messages.common import NULL
from penstock.messages.search import (
    Bulk,
    BulkActionName,
    BulkGet,
    BulkList,
    BulkStatus,
    ExecutionBulk,
    ExecutionFilter,
)


class Bulks:
    """Methods to begin, follow and stop bulk changes. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def start(
        self,
        action: BulkActionName,
        filter: ExecutionFilter,
        *,
        reason: str = "",
        grace_ms: int | None = None,
        priority: int | None = None,
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        payload: Any = NULL,
        waitpoint_key: str | None = None,
        rate: int = 100,
        most: int | None = None,
        idempotency_key: str | None = None,
    ) -> Bulk:
        """Begin to change all executions that match now, at most `rate` a second, and at most `most` of them.

        `change_priority` takes `priority`, `set_tags` takes `tags`, and `cancel` takes `grace_ms`. `signal` takes the
        signal's `name`, and its `payload` and the `waitpoint_key`, as `Client.send_signal` does. A payload above
        64 KiB raises `payload_too_large`.
        """
        request = ExecutionBulk(
            filter=filter,
            action=action,
            reason=reason,
            grace_ms=grace_ms,
            priority=priority,
            tags=None if tags is None else dict(tags),
            name=name,
            payload=raw_of(payload),
            waitpoint_key=waitpoint_key,
            rate=rate,
            most=most,
            idempotency_key=idempotency_key,
        )
        return await self._requester.call(verbs.EXECUTION_BULK, request)

    async def get(self, bulk_id: str) -> Bulk:
        """Return a bulk change and how far it is."""
        return await self._requester.call(verbs.BULK_GET, BulkGet(bulk_id=bulk_id))

    def list(self, *, status: BulkStatus | None = None) -> AsyncIterator[Bulk]:
        """Iterate over bulk changes, newest first."""
        return each(self._requester, verbs.BULK_LIST, lambda cursor: BulkList(status=status, cursor=cursor))

    async def stop(self, bulk_id: str) -> Bulk:
        """Stop a bulk change. What it has done stays done."""
        return await self._requester.call(verbs.BULK_STOP, BulkGet(bulk_id=bulk_id))
