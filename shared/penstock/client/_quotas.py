"""`client.quotas`: limits on executions' starts per time window, and on how many run at once."""

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.messages.limits import Quota, QuotaCreate, QuotaGet


class Quotas:
    """Methods to create, read and delete quotas. Each raises the typed error that the service replies with."""

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
        """Create a quota on starts in any window, on running at once, or both. Executions name it as `quota_id`."""
        request = QuotaCreate(
            max_per_window=max_per_window,
            window_ms=window_ms,
            max_concurrent=max_concurrent,
            namespace=namespace,
            idempotency_key=idempotency_key,
        )
        return await self._requester.call(verbs.QUOTA_CREATE, request)

    async def get(self, quota_id: str) -> Quota:
        """Return a quota and its use now."""
        return await self._requester.call(verbs.QUOTA_GET, QuotaGet(quota_id=quota_id))

    async def delete(self, quota_id: str) -> Quota:
        """Delete a quota. From now on the quota limits nothing."""
        return await self._requester.call(verbs.QUOTA_DELETE, QuotaGet(quota_id=quota_id))
