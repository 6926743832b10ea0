"""The lease-keeper's operations that begin, renew, revoke or release a lease."""

from penstock.machine.op import Fenced, Op, op
from penstock.messages.common import StateReply
from penstock.messages.leases import Progress as ProgressTold
from penstock.messages.leases import Renewed


@op("lease_keeper", by="execution_id")
class Start(Fenced[StateReply], kw_only=True):
    pass


@op("lease_keeper", by="execution_id")
class Renew(Fenced[Renewed], kw_only=True):
    lease_ttl_ms: int | None = None


@op("lease_keeper", by="execution_id")
class Stalled(Fenced[StateReply], kw_only=True):
    """Note that the worker's event loop has been blocked for `blocked_ms`, so that nobody renews the lease."""

    blocked_ms: int


@op("lease_keeper", by="execution_id")
class Revoke(Op[StateReply], kw_only=True):
    """Take a lease away, for an operator."""

    execution_id: str
    reason: str


@op("lease_keeper", by="execution_id")
class Release(Fenced[StateReply], kw_only=True):
    """Give back a lease whose task has not been started; with `unbegun`, also one that was begun when it was leased."""

    unbegun: bool = False


@op("lease_keeper", by="execution_id")
class Progress(Fenced[ProgressTold], kw_only=True):
    pct: float
    message: str
