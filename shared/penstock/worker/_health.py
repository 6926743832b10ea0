"""A worker's health, for probes and monitoring."""

from typing import Literal

from msgspec import Struct


class Health(Struct, frozen=True, kw_only=True):
    """A worker's health. `ok` means: connected, working or draining, and every lease it holds is renewed."""

    worker_id: str
    status: Literal["starting", "working", "draining", "stopped"]
    connected: bool
    running: int
    """How many handlers run now."""
    unhealthy_leases: int
    """How many leases are lost, past their end, or fail to renew (three times in a row)."""

    @property
    def ok(self) -> bool:
        return self.connected and self.status in ("working", "draining") and not self.unhealthy_leases
