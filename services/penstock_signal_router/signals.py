"""signal.deliver: check the token here; then one atomic operation acts on the waitpoint's state at that time."""

from collections.abc import Coroutine, Sequence
from typing import Any, Final, NamedTuple

from penstock.bus.calls import Call
from penstock.errors import PenstockError, make
from penstock.ids import partition_of, uuid7
from penstock.machine import Machine, Op
from penstock.machine.ops import signal_router as ops
from penstock.machine.ops.signal_router import Facts
from penstock.messages.signals import Delivered, SignalDeliver
from penstock_signal_router.refusals import Refusals
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


_Asked = tuple[PenstockError | None, tuple[int, Op[Any]] | None]
"""The error that a signal is answered with, None for the reply; and the command to run with its partition, if any."""


class Signals:
    """Checks tokens and delivers signals. A batch costs one round trip (two with waitpoints that this router has
    neither made nor seen).
    """

    def __init__(self, machine: Machine, tokens: Tokens) -> None:
        self._machine = machine
        self._tokens = tokens
        self._facts: dict[str, Facts] = {}
        self.refusals = Refusals()

    def remember(self, facts: Facts) -> None:
        """Keep the facts of a waitpoint, so that its first signal need not ask for them."""
        self._facts[facts.waitpoint_id] = facts
        if len(self._facts) > REMEMBERED:
            del self._facts[next(iter(self._facts))]

    async def handle(self, call: Call[SignalDeliver]) -> Sequence[Any]:
        return await self.deliver([Delivery(item) for item in call.items])

    async def deliver(self, deliveries: Sequence[Delivery]) -> list[Delivered | PenstockError]:
        """Deliver signals; return their results in order. Every bad token (wrong, foreign, malformed, unknown) is
        `invalid_token`. Raise PenstockError("valkey_unavailable") if Valkey cannot be asked about the tokens.
        """
        return await (await self.begin(deliveries))

    async def begin(self, deliveries: Sequence[Delivery]) -> Coroutine[Any, Any, list[Any]]:
        """The same in two steps: when this returns, the signals are queued, and what is delivered later comes later.
        Return what then waits for the results.
        """
        parsed = [Token.parse(delivery.signal.token) for delivery in deliveries]
        tokens = [token for token in parsed if token]
        ring = await self._tokens.ring(token.key_id for token in tokens)
        # A key id is no secret, each token shows one: so a made-up one may be refused without a look at the waitpoint.
        known = await self._look_up({token.waitpoint_id for token in tokens if token.key_id in ring.keys})
        asked: list[_Asked] = []
        for delivery, token in zip(deliveries, parsed, strict=True):
            facts = known.get(token.waitpoint_id) if token else None
            # Every well-formed token of a known key costs the same work, so that response times leak nothing.
            why = self._tokens.refusal(ring, token, facts) if token else "malformed"
            if token is None or facts is None or why or not _meant(delivery, facts):
                error = make("token_expired" if why == "expired" else "invalid_token")
                asked.append((error, self._rejection(delivery, token, why or "foreign")))
            else:
                signal_id = delivery.signal.signal_id or uuid7()
                deliver = ops.Deliver.of(
                    delivery.signal, waitpoint_id=facts.waitpoint_id, signal_id=signal_id
                )
                asked.append((None, (deliver.home(), deliver)))
        return self._run(asked)

    def _run(self, asked: Sequence["_Asked"]) -> Coroutine[Any, Any, list[Any]]:
        """Queue the commands. Return what waits for the results: for each its error, or the reply if there is none.

        If the audit event of a refusal failed, that is the error, so that the signal comes again.
        """
        commands = [command for _, command in asked if command]
        return self._results(
            asked, self._machine.run_many([each for _, each in commands], [place for place, _ in commands])
        )

    async def _results(self, asked: Sequence["_Asked"], running: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        replies = iter(await running)
        results: list[Any] = []
        for error, command in asked:
            reply = next(replies) if command else None
            results.append(reply if isinstance(reply, PenstockError) else error or reply)
        return results

    async def _look_up(self, ids: set[str]) -> dict[str, Facts]:
        """Return the facts of the waitpoints that exist, by id."""
        known: dict[str, Facts] = {}
        missing: list[str] = []
        for waitpoint_id in ids:
            facts = self._facts.pop(waitpoint_id, None)
            if facts is not None:
                known[waitpoint_id] = self._facts[waitpoint_id] = facts
            elif partition_of(waitpoint_id) < self._machine.partitions and not self.refusals.is_missing(
                waitpoint_id
            ):
                missing.append(waitpoint_id)
        found = await self._machine.all_of([ops.Peek(waitpoint_id=each) for each in missing])
        for waitpoint_id, facts in zip(missing, found, strict=True):
            if facts is not None:
                known[waitpoint_id] = facts
                self.remember(facts)
            else:
                self.refusals.missed(waitpoint_id)
        return known

    async def refuse(self, refusals: Sequence[Refusal]) -> list[PenstockError]:
        """Write audit events for refused messages. Return their reasons, or the error that prevented an event."""
        return await self._run(
            [
                (refusal.error, self._reject(refusal.waitpoint_id, "signal_rejected", refusal.error.code))
                for refusal in refusals
            ]
        )

    def _rejection(self, delivery: Delivery, token: Token | None, why: str) -> tuple[int, ops.Reject] | None:
        """Return the operation that audits a refused token on the targeted waitpoint, and its partition, if any."""
        waitpoint_id = delivery.waitpoint_id or (token.waitpoint_id if token else None)
        return self._reject(waitpoint_id, "token_rejected", why)

    def _reject(self, waitpoint_id: str | None, event: str, why: str) -> tuple[int, ops.Reject] | None:
        partition = partition_of(waitpoint_id) if waitpoint_id else 0
        if partition >= self._machine.partitions:  # no relay reads the outbox of such a partition
            partition, waitpoint_id = 0, None
        # Ids that somebody makes up share one count, or they would not be counted at all.
        target = waitpoint_id if waitpoint_id in self._facts else f"{partition}-unknown"
        if not self.refusals.is_recorded(target or ""):
            return None
        return partition, ops.Reject(waitpoint_id=waitpoint_id, event=event, reason=why)


def _meant(delivery: Delivery, facts: Facts) -> bool:
    """Whether the token belongs to the waitpoint, execution and key that the sender names, where named."""
    signal = delivery.signal
    return (
        delivery.waitpoint_id in (None, facts.waitpoint_id)
        and signal.execution_id in (None, facts.execution_id)
        and signal.waitpoint_key in (None, facts.key)
    )
