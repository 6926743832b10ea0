"""The operations, by service: `from penstock.machine.ops import scheduler as ops`, then `ops.Get(…)`.

A module here stands for a file of lua/ops/<service>/, which says what each operation does, refuses and tells.
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
