"""lease.claim, .claim_resumed and .reclaim: turn a grant into a lease."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import lease_keeper as ops
from penstock.machine.tasks import sendable
from penstock.messages.leases import Claim


class Claims:
    """Handlers of the claiming verbs; each verb accepts only its own kind of grant."""

    def __init__(self, machine: Machine, payload_limit: int) -> None:
        self._machine = machine
        self._limit = payload_limit

    async def claim(self, call: Call[Claim]) -> Sequence[Any]:
        return await self._claim(call, "claim")

    async def claim_resumed(self, call: Call[Claim]) -> Sequence[Any]:
        return await self._claim(call, "claim_resumed")

    async def reclaim(self, call: Call[Claim]) -> Sequence[Any]:
        return await self._claim(call, "reclaim")

    async def _claim(self, call: Call[Claim], verb: str) -> Sequence[Any]:
        replies = await self._machine.run_many([ops.Claim.of(item, verb=verb) for item in call.items])
        return [
            reply if isinstance(reply, PenstockError) else sendable(reply, self._limit) for reply in replies
        ]
