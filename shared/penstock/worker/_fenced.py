"""A task's calls under its lease. Each call carries the fence, and at most one outcome is applied."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from penstock import errors
from penstock.bus.requester import Requester
from penstock.codecs import CodecError
from penstock.messages.common import Fence, Reply
from penstock.messages.journal import Parked
from penstock.messages.signals import Suspended
from penstock.verbs import Verb
from penstock.worker._errors import TaskConsumedError
from penstock.worker._leases import LOST, Lease, LeaseRenewer
from penstock.worker._outcomes import ANSWER_S, deliver

T = TypeVar("T")
F = TypeVar("F", bound=Fence)
Rep = TypeVar("Rep", bound=Reply)


class FencedCalls:
    """The fenced calls of one attempt, from the start of its lease to the outcome that ends it."""

    __slots__ = ("_lease", "_leases", "_requester", "consumed")

    def __init__(self, requester: Requester, leases: LeaseRenewer, lease: Lease) -> None:
        self.consumed = False
        """Whether the attempt has its outcome."""
        self._requester = requester
        self._leases = leases
        self._lease = lease

    def request(self, verb: Verb[F, Any], **fields: Any) -> F:
        """Build the verb's request, with the fence."""
        message = self._lease.message
        return verb.request(
            execution_id=message.execution_id,
            attempt_index=message.attempt_index,
            lease_id=message.lease_id,
            lease_epoch=message.lease_epoch,
            **fields,
        )

    async def call(self, verb: Verb[Any, Rep], **fields: Any) -> Rep:
        """Make a call that does not end the attempt."""
        return await self.answer(self._requester.call(verb, self.request(verb, **fields)))

    async def answer(self, answer: Awaitable[T]) -> T:
        """Await the reply to a fenced call. If the fence is refused, mark the lease as lost and raise."""
        try:
            return await answer
        except errors.PenstockError as error:
            if error.code in LOST:
                self._lease.lose(error.code)
            raise

    def post(self, verb: Verb[Any, Rep], **fields: Any) -> "asyncio.Future[Rep]":
        """Send an outcome without waiting for the answer. If that fails, `consume_posted` says how to go on."""
        self.consumed = True
        return self._requester.send(verb, self.request(verb, **fields), timeout=ANSWER_S)

    async def consume_posted(self, error: BaseException, verb: Verb[Any, Rep], **fields: Any) -> Rep:
        """Go on with a posted outcome, for which this error came instead of an answer: deliver it if it may not have
        arrived, else raise the error. Raises as `consume` does.
        """
        if isinstance(error, errors.UnavailableError):
            self.consumed = False
            return await self.consume(verb, **fields)
        self.consumed = not _is_refusal(error)
        raise error

    async def consume(self, verb: Verb[Any, Rep], **fields: Any) -> Rep:
        """Deliver an outcome. Raise `TaskConsumedError` if the attempt already has one."""
        request = self.request(verb, **fields)
        if self.consumed:
            raise TaskConsumedError(f"{request.execution_id} has had its outcome: {verb.name} was not sent")
        self.consumed = True
        # From here on nothing may interrupt the delivery.
        on_stop, self._lease.on_stop = self._lease.on_stop, None
        interrupts = self._lease.interrupts
        try:
            reply = await deliver(self._requester, self._lease, verb, request)
        except BaseException as error:
            if _is_refusal(error):
                self._go_on(on_stop, interrupts)
            else:
                self._leases.drop(self._lease)
            raise
        if isinstance(reply, Suspended | Parked) and reply.outcome == "already_satisfied":
            self._go_on(on_stop, interrupts)
        else:
            self._leases.drop(self._lease)
        return reply

    def end(self) -> None:
        """Mark the attempt as ended by a service, so that no outcome is sent."""
        self.consumed = True
        self._lease.on_stop = None
        self._leases.drop(self._lease)

    def _go_on(self, on_stop: Callable[[], object] | None, interrupts: tuple[object, ...]) -> None:
        """Keep the lease, so that the handler can still send another outcome."""
        self.consumed = False
        self._lease.on_stop = on_stop
        if (
            self._lease.interrupts != interrupts
        ):  # a stop came meanwhile: apply it now, if the handler still runs
            asyncio.get_running_loop().call_soon(self._lease.stop)


def _is_refusal(error: BaseException) -> bool:
    """Return whether only this request was refused (too large, no such waitpoint, not codable), and the lease holds."""
    return isinstance(error, CodecError) or (
        isinstance(error, errors.PenstockError) and error.code not in LOST
    )
