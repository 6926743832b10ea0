"""lease.start, .renew, .stalled, .release and .progress, called by the worker; lease.revoke, called by an operator."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.machine import Machine
from penstock.machine.ops import lease_keeper as ops
from penstock.messages.leases import (
    LeaseProgress,
    LeaseRelease,
    LeaseRenew,
    LeaseRevoke,
    LeaseStalled,
    LeaseStart,
)


class Leases:
    """Handlers for leases while they last."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def start(self, call: Call[LeaseStart]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Start.of(item) for item in call.items])

    async def renew(self, call: Call[LeaseRenew]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Renew.of(item) for item in call.items])

    async def stalled(self, call: Call[LeaseStalled]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Stalled.of(item) for item in call.items])

    async def release(self, call: Call[LeaseRelease]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Release.of(item) for item in call.items])

    async def revoke(self, call: Call[LeaseRevoke]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Revoke.of(item) for item in call.items])

    async def progress(self, call: Call[LeaseProgress]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Progress.of(item) for item in call.items])
