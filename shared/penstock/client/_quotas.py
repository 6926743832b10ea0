"""`client.quotas`: so many starts in a window, so many at once."""

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.messages.limits import Quota, QuotaCreate, QuotaGet


class Quotas:
    """Makes and looks at quotas. Each call raises the typed error that the service answers."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def create(
        self,
        *,
        max_per_window: int | None = None,
        window_ms: int | None = None,
        max_concurrent: int | None = None,
        namespace: str = "default",
        idempotency_key: str | None = None,
    ) -> Quota:
        """At most so many starts in any window, at most so many at once; executions name it as `quota_id`."""
        request = QuotaCreate(
            max_per_window=max_per_window,
            window_ms=window_ms,
            max_concurrent=max_concurrent,
            namespace=namespace,
            idempotency_key=idempotency_key,
        )
        return await self._requester.call(verbs.QUOTA_CREATE, request)

    async def get(self, quota_id: str) -> Quota:
        return await self._requester.call(verbs.QUOTA_GET, QuotaGet(quota_id=quota_id))

    async def delete(self, quota_id: str) -> Quota:
        """It limits nothing from now on."""
        return await self._requester.call(verbs.QUOTA_DELETE, QuotaGet(quota_id=quota_id))
