"""A task's calls under its lease: each carries the fence, and at most one outcome is sent."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from penstock import errors
from penstock.bus.requester import Requester
from penstock.messages.common import Fence, Reply
from penstock.messages.signals import Suspended
from penstock.verbs import Verb
from penstock.worker._errors import TaskConsumedError
from penstock.worker._leases import LOST, Lease, LeaseRenewer
from penstock.worker._outcomes import deliver

T = TypeVar("T")
F = TypeVar("F", bound=Fence)
Rep = TypeVar("Rep", bound=Reply)


class FencedCalls:
    """What one attempt tells the services while it holds its lease, up to the outcome that ends it."""

    __slots__ = ("_lease", "_leases", "_requester", "consumed")

    def __init__(self, requester: Requester, leases: LeaseRenewer, lease: Lease) -> None:
        self.consumed = False
        """Whether the outcome is decided."""
        self._requester = requester
        self._leases = leases
        self._lease = lease

    def request(self, verb: Verb[F, Any], **fields: Any) -> F:
        """The verb's request, with the fence."""
        message = self._lease.message
        return verb.request(
            execution_id=message.execution_id,
            attempt_index=message.attempt_index,
            lease_id=message.lease_id,
            lease_epoch=message.lease_epoch,
            **fields,
        )

    async def call(self, verb: Verb[Any, Rep], **fields: Any) -> Rep:
        """A call that is no outcome."""
        return await self.answer(self._requester.call(verb, self.request(verb, **fields)))

    async def answer(self, answer: Awaitable[T]) -> T:
        """What is answered under the fence; a refusal of the fence is a lost lease."""
        try:
            return await answer
        except errors.PenstockError as error:
            if error.code in LOST:
                self._lease.lose(error.code)
            raise

    async def consume(self, verb: Verb[Any, Rep], **fields: Any) -> Rep:
        """Deliver an outcome, once."""
        request = self.request(verb, **fields)
        if self.consumed:
            raise TaskConsumedError(f"{request.execution_id} has had its outcome: {verb.name} was not sent")
        self.consumed = True
        # From here on nothing may interrupt the delivery.
        on_stop, self._lease.on_stop = self._lease.on_stop, None
        try:
            reply = await deliver(self._requester, self._lease, verb, request)
        except BaseException as error:
            if isinstance(error, errors.PenstockError) and error.code not in LOST:
                self._go_on(on_stop)  # refused as it stands: too large, no such waitpoint
            else:
                self._leases.drop(self._lease)
            raise
        if isinstance(reply, Suspended) and reply.outcome == "already_satisfied":
            self._go_on(on_stop)
        else:
            self._leases.drop(self._lease)
        return reply

    def end(self) -> None:
        """A service has ended the attempt by itself."""
        self.consumed = True
        self._lease.on_stop = None
        self._leases.drop(self._lease)

    def _go_on(self, on_stop: Callable[[], object] | None) -> None:
        """The lease is kept, for another outcome."""
        self.consumed = False
        self._lease.on_stop = on_stop
        if self._lease.stopping:  # since then; at once, if the handler still runs by then
            asyncio.get_running_loop().call_soon(self._lease.stop)
