"""How a worker is, for whoever watches its process."""

from typing import Literal

from msgspec import Struct


class Health(Struct, frozen=True, kw_only=True):
    """`ok`: it is connected, takes work or drains as it should, and every lease that it holds renews."""

    worker_id: str
    status: Literal["starting", "working", "draining", "stopped"]
    connected: bool
    running: int
    """Handlers that run now."""
    unhealthy_leases: int
    """Leases that are lost, or whose renewals fail."""

    @property
    def ok(self) -> bool:
        return self.connected and self.status in ("working", "draining") and not self.unhealthy_leases
