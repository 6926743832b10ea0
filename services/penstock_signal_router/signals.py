"""signal.deliver: check the token here; then one atomic operation acts on the waitpoint's state at that time."""

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
"""Most waitpoints whose facts are cached in memory."""


class Delivery(NamedTuple):
    """A signal to deliver. waitpoint_id: from the subject of a published signal, None for a request."""

    signal: SignalDeliver
    waitpoint_id: str | None = None


class Refusal(NamedTuple):
    """A published message that is no signal, and why. waitpoint_id: from the subject, None if it names none."""

    error: PenstockError
    waitpoint_id: str | None = None


class Signals:
    """Checks tokens and delivers signals. A batch costs one round trip (two with waitpoints not seen before)."""

    def __init__(self, machine: Machine, tokens: Tokens) -> None:
        self._machine = machine
        self._tokens = tokens
        self._facts: dict[str, Facts] = {}

    async def handle(self, call: Call[SignalDeliver]) -> Sequence[Any]:
        return await self.deliver([Delivery(item) for item in call.items])

    async def deliver(self, deliveries: Sequence[Delivery]) -> list[Delivered | PenstockError]:
        """Deliver signals; return their results in order. Every bad token (wrong, foreign, malformed, unknown) is
        `invalid_token`. Raise PenstockError("valkey_unavailable") if Valkey cannot be asked about the tokens.
        """
        parsed = [Token.parse(delivery.signal.token) for delivery in deliveries]
        tokens = [token for token in parsed if token]
        ring = await self._tokens.ring(token.key_id for token in tokens)
        known = await self._look_up({token.waitpoint_id for token in tokens})
        commands: list[tuple[int, Op[Any]]] = []
        refused: list[PenstockError | None] = []
        for delivery, token in zip(deliveries, parsed, strict=True):
            facts = known.get(token.waitpoint_id) if token else None
            # Every well-formed token costs the same work, so that response times leak nothing.
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
        # If the audit event of a refusal failed, return that error, so that the signal comes again.
        return [
            reply if isinstance(reply, PenstockError) else error or reply
            for error, reply in zip(refused, replies, strict=True)
        ]

    async def _look_up(self, ids: set[str]) -> dict[str, Facts]:
        """Return the facts of the waitpoints that exist, by id."""
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
        """Write an audit event for each refused message. Return its reason, or the error that prevented the event."""
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
        """Return the operation that audits a refused token on the targeted waitpoint, and its partition."""
        waitpoint_id = delivery.waitpoint_id or (token.waitpoint_id if token else None)
        return self._reject(waitpoint_id, "token_rejected", why)

    def _reject(self, waitpoint_id: str | None, event: str, why: str) -> tuple[int, ops.Reject]:
        partition = partition_of(waitpoint_id) if waitpoint_id else 0
        if partition >= self._machine.partitions:  # no relay reads the outbox of such a partition
            partition, waitpoint_id = 0, None
        return partition, ops.Reject(waitpoint_id=waitpoint_id, event=event, reason=why)


def _meant(delivery: Delivery, facts: Facts) -> bool:
    """Whether the token belongs to the waitpoint, execution and key that the sender names, where named."""
    signal = delivery.signal
    return (
        delivery.waitpoint_id in (None, facts.waitpoint_id)
        and signal.execution_id in (None, facts.execution_id)
        and signal.waitpoint_key in (None, facts.key)
    )
