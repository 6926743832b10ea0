"""The operations, by service: `from penstock.machine.ops import scheduler as ops`, then `ops.Get(…)`.

The files of lua/ops/<service>/ implement the operations, and document their arguments, replies, errors and events.
"""

from penstock.machine.op import OPS
from penstock.machine.ops import (
    audit_relay,
    cancel_reconciler,
    common,
    lease_keeper,
    mirror_observer,
    scheduler,
    signal_router,
)

__all__ = [
    "OPS",
    "audit_relay",
    "cancel_reconciler",
    "common",
    "lease_keeper",
    "mirror_observer",
    "scheduler",
    "signal_router",
]
