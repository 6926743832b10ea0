"""waitpoint.create, lease.suspend and signal.resumed_by: a worker's verbs about signals."""

from collections.abc import Callable, Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.conditions import compiled
from penstock.machine.ops import signal_router as ops
from penstock.machine.ops.signal_router import Facts
from penstock.messages.common import Fence
from penstock.messages.signals import LeaseSuspend, ResumedBy, Suspended, WaitpointCreate, WaitpointCreated
from penstock_signal_router.tokens import Ring, Tokens
from penstock_signal_router.waitpoints import signal_pages

DEFAULT_KEY = "default"


class Waits:
    """Handlers of the verbs that carry a fence (the worker's lease)."""

    def __init__(self, machine: Machine, tokens: Tokens, remember: Callable[[Facts], None]) -> None:
        """remember: called with the facts of each waitpoint for which a token is given out."""
        self._machine = machine
        self._tokens = tokens
        self._remember = remember

    async def create(self, call: Call[WaitpointCreate]) -> Sequence[Any]:
        # Read the ring first: without it no token can be minted, so no waitpoint may be created.
        ring = await self._tokens.ring()
        replies = await self._machine.run_many(
            [ops.Create.of(item, id=self._new_id(item)) for item in call.items]
        )
        return [
            reply if isinstance(reply, PenstockError) else self._created(ring, reply) for reply in replies
        ]

    async def suspend(self, call: Call[LeaseSuspend]) -> Sequence[Any]:
        ring = await self._tokens.ring()
        suspensions = [_suspension(item, self._new_id(item)) for item in call.items]
        replies = iter(
            await self._machine.run_many([each for each in suspensions if isinstance(each, ops.Suspend)])
        )
        results = [each if isinstance(each, PenstockError) else next(replies) for each in suspensions]
        return [
            result if isinstance(result, PenstockError) else self._suspended(ring, result)
            for result in results
        ]

    def _created(self, ring: Ring, created: ops.Created) -> WaitpointCreated:
        return WaitpointCreated(
            waitpoint_id=created.waitpoint_id,
            token=self._token(ring, created),
            expires_at=created.expires_at,
        )

    def _suspended(self, ring: Ring, done: ops.SuspendDone) -> Suspended:
        reply = Suspended(
            outcome=done.outcome,
            suspension_id=done.suspension_id,
            waitpoint_id=done.waitpoint_id,
            items=done.items,
        )
        if done.outcome == "suspended":
            reply.token = self._token(ring, done)
        return reply

    def _token(self, ring: Ring, of: ops.Created | ops.SuspendDone) -> str:
        facts = _facts(of)
        self._remember(facts)
        return ring.mint(facts)

    def _new_id(self, item: Fence) -> str:
        """Return a new waitpoint id, in the partition of its execution."""
        return self._machine.new_id(partition_of(item.execution_id))

    async def resumed_by(self, call: Call[ResumedBy]) -> Sequence[Any]:
        return await signal_pages(self._machine, ops.ResumedBy, call.items)


def _suspension(item: LeaseSuspend, new_id: str) -> ops.Suspend | PenstockError:
    try:
        condition = compiled(item.condition)
    except PenstockError as error:
        return error
    key = item.waitpoint_key or DEFAULT_KEY
    return ops.Suspend.of(item, condition=condition, waitpoint_key=key, id=new_id)


def _facts(of: ops.Created | ops.SuspendDone) -> Facts:
    return Facts(
        waitpoint_id=of.waitpoint_id or "", execution_id=of.execution_id, key=of.key, created_at=of.created_at
    )
