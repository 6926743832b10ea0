"""signal.deliver: the token is checked here, the rest is one atomic step by what the waitpoint is then."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError, make
from penstock.ids import partition_of, uuid7
from penstock.machine import Machine, Op
from penstock.machine.ops import signal_router as ops
from penstock.machine.ops.signal_router import Facts
from penstock.messages.signals import Delivered, SignalDeliver
from penstock_signal_router.tokens import Token, Tokens

REMEMBERED: Final = 50_000
"""Waitpoints whose facts are kept in memory."""


class Delivery(NamedTuple):
    """A signal on its way; `waitpoint_id` is the one that a published signal's subject names."""

    signal: SignalDeliver
    waitpoint_id: str | None = None


class Refusal(NamedTuple):
    """What was published to a waitpoint, or to none, and why it is no signal."""

    error: PenstockError
    waitpoint_id: str | None = None


class Signals:
    """Checks tokens and delivers; many at once cost one round trip (two for waitpoints not seen before)."""

    def __init__(self, machine: Machine, tokens: Tokens) -> None:
        self._machine = machine
        self._tokens = tokens
        self._facts: dict[str, Facts] = {}

    async def handle(self, call: Call[SignalDeliver]) -> Sequence[Any]:
        return await self.deliver([Delivery(item) for item in call.items])

    async def deliver(self, deliveries: Sequence[Delivery]) -> list[Delivered | PenstockError]:
        """What became of each, in order. Wrong, foreign, malformed and unknown are one `invalid_token`.

        Raises PenstockError("valkey_unavailable") when nothing could be looked up.
        """
        parsed = [Token.parse(delivery.signal.token) for delivery in deliveries]
        tokens = [token for token in parsed if token]
        ring = await self._tokens.ring(token.key_id for token in tokens)
        known = await self._look_up({token.waitpoint_id for token in tokens})
        commands: list[tuple[int, Op[Any]]] = []
        refused: list[PenstockError | None] = []
        for delivery, token in zip(deliveries, parsed, strict=True):
            facts = known.get(token.waitpoint_id) if token else None
            # The same work for every token, so that the time tells nothing either.
            why = self._tokens.refusal(ring, token, facts) if token else "malformed"
            if token is None or facts is None or why or not _meant(delivery, facts):
                commands.append(self._rejection(delivery, token, why or "foreign"))
                refused.append(make("token_expired" if why == "expired" else "invalid_token"))
            else:
                signal_id = delivery.signal.signal_id or uuid7()
                deliver = ops.Deliver.of(
                    delivery.signal, waitpoint_id=facts.waitpoint_id, signal_id=signal_id
                )
                commands.append((deliver.home(), deliver))
                refused.append(None)
        replies = await self._machine.run_many(
            [command for _, command in commands], [partition for partition, _ in commands]
        )
        # A refusal that could not be told of is to come again.
        return [
            reply if isinstance(reply, PenstockError) else error or reply
            for error, reply in zip(refused, replies, strict=True)
        ]

    async def _look_up(self, ids: set[str]) -> dict[str, Facts]:
        """The facts of those that exist."""
        known: dict[str, Facts] = {}
        missing: list[str] = []
        for waitpoint_id in ids:
            facts = self._facts.pop(waitpoint_id, None)
            if facts is not None:
                known[waitpoint_id] = self._facts[waitpoint_id] = facts
            elif partition_of(waitpoint_id) < self._machine.partitions:
                missing.append(waitpoint_id)
        found = await self._machine.all_of([ops.Peek(waitpoint_id=each) for each in missing])
        for waitpoint_id, facts in zip(missing, found, strict=True):
            if facts is not None:
                known[waitpoint_id] = self._facts[waitpoint_id] = facts
        while len(self._facts) > REMEMBERED:
            del self._facts[next(iter(self._facts))]
        return known

    async def refuse(self, refusals: Sequence[Refusal]) -> list[PenstockError]:
        """Tells of what was published and is no signal; answers why, or what kept it from being told."""
        told = [
            self._reject(refusal.waitpoint_id, "signal_rejected", refusal.error.code) for refusal in refusals
        ]
        replies = await self._machine.run_many(
            [reject for _, reject in told], [partition for partition, _ in told]
        )
        return [
            reply if isinstance(reply, PenstockError) else refusal.error
            for refusal, reply in zip(refusals, replies, strict=True)
        ]

    def _rejection(self, delivery: Delivery, token: Token | None, why: str) -> tuple[int, ops.Reject]:
        """The audit event of a refused token, on the waitpoint that was aimed at."""
        waitpoint_id = delivery.waitpoint_id or (token.waitpoint_id if token else None)
        return self._reject(waitpoint_id, "token_rejected", why)

    def _reject(self, waitpoint_id: str | None, event: str, why: str) -> tuple[int, ops.Reject]:
        partition = partition_of(waitpoint_id) if waitpoint_id else 0
        if partition >= self._machine.partitions:  # nobody would relay events from there
            partition, waitpoint_id = 0, None
        return partition, ops.Reject(waitpoint_id=waitpoint_id, event=event, reason=why)


def _meant(delivery: Delivery, facts: Facts) -> bool:
    """Whether the token is for what the sender names beside it."""
    signal = delivery.signal
    return (
        delivery.waitpoint_id in (None, facts.waitpoint_id)
        and signal.execution_id in (None, facts.execution_id)
        and signal.waitpoint_key in (None, facts.key)
    )
