"""The methods of `Client` that send signals to executions and events to flows, by a request or through JetStream."""

from typing import Any

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester, encode
from penstock.client._publishing import Publisher
from penstock.ids import uuid7
from penstock.messages.common import NULL
from penstock.messages.signals import Delivered, SignalDeliver, SignalSend
from penstock.subjects import event_subject, signal_subject


class SignalCalls:
    """Methods to send signals and events to those that wait for them. Each raises the service's typed error."""

    # `Client` sets these.
    root: str
    _requester: Requester
    _publisher: Publisher

    async def signal(
        self,
        token: str,
        name: str,
        payload: Any = NULL,
        *,
        source: str | None = None,
        signal_id: str | None = None,
    ) -> Delivered:
        """Deliver a signal to the waitpoint that `token` belongs to. Return the signal's effect."""
        request = SignalDeliver(
            token=token, name=name, payload=raw_of(payload), source=source, signal_id=signal_id or uuid7()
        )
        return await self._requester.call(verbs.SIGNAL_DELIVER, request)

    async def send_signal(
        self,
        execution_id: str,
        name: str,
        payload: Any = NULL,
        *,
        waitpoint_key: str | None = None,
        reason: str = "",
        signal_id: str | None = None,
    ) -> Delivered:
        """Deliver a signal without a token, as an operator. Return the signal's effect.

        The signal goes to the waitpoint with key `waitpoint_key`. Without a key, it goes to the waitpoint that the
        execution waits on, or else to the execution's only pending waitpoint.
        """
        request = SignalSend(
            execution_id=execution_id,
            name=name,
            payload=raw_of(payload),
            waitpoint_key=waitpoint_key,
            reason=reason,
            signal_id=signal_id or uuid7(),
        )
        return await self._requester.call(verbs.SIGNAL_SEND, request)

    async def publish_event(
        self, topic: str, correlation_id: str, body: Any = NULL, *, event_id: str | None = None
    ) -> str:
        """Publish an event that flows can wait for, and return its id. JetStream keeps the event until it is applied.

        Publishing again with the same `event_id` wakes no flow a second time.
        """
        event_id = event_id or uuid7()
        headers = {"Nats-Msg-Id": event_id, "Penstock-Correlation-Id": correlation_id}
        payload = await self._publisher.payload(body)
        await self._publisher.publish(event_subject(self.root, topic), encode(payload), headers)
        return event_id

    async def publish_signal(
        self, waitpoint_id: str, name: str, token: str, payload: Any = NULL, *, signal_id: str | None = None
    ) -> str:
        """Publish a signal and return its id. JetStream keeps it until it is applied, even if all routers are down.

        Publishing again with the same `signal_id` has no further effect.
        """
        signal_id = signal_id or uuid7()
        subject = signal_subject(self.root, waitpoint_id, name)
        headers = {"Nats-Msg-Id": signal_id, "Penstock-Token": token}
        await self._publisher.publish(subject, encode(await self._publisher.payload(payload)), headers)
        return signal_id
