"""Operations that create and delete quotas. The rules are in lua/limit/limits.lua."""

from penstock.machine.op import Op, op
from penstock.messages.limits import Quota


@op("scheduler", by="id")
class QuotaCreate(Op[Quota], kw_only=True):
    id: str
    max_per_window: int | None = None
    window_ms: int | None = None
    max_concurrent: int | None = None
    namespace: str
    digest: str | None = None
    idempotency_key: str | None = None


@op("scheduler", by="quota_id")
class QuotaDelete(Op[Quota], kw_only=True):
    """Delete a quota. Return the quota as it was."""

    quota_id: str
