"""Service discovery for `nats micro ls`, `info` and `stats`: the PING, INFO and STATS of the NATS micro protocol.

nats-py's own `nats.micro` runs one handler at a time and, when it stops, drops messages that the server has
sent but the handler has not seen. Penstock's endpoints queue and drain instead (`endpoints.py`), so this module
answers the discovery requests for them, with nats-py's message types.
"""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.micro.service import (
    EndpointInfo,
    EndpointStats,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    ServiceVerb,
    control_subject,
)

from penstock.bus.reply_guard import ReplyGuard

MISSING = "penstock-missing"
"""Key in a PING's metadata: what a service that is not ready lacks, separated by commas."""


class Served:
    """An endpoint's description and counters, as service discovery shows them."""

    def __init__(self, name: str, subject: str, queue_group: str, metadata: dict[str, str]) -> None:
        self.name = name
        self.subject = subject
        self.info = EndpointInfo(name, subject, queue_group, metadata)
        self.stats = EndpointStats(name, subject, queue_group, 0, 0, 0, 0)

    def answered(self, messages: int, seconds: float) -> None:
        """Count messages that were answered together, `seconds` after their handler call began."""
        stats = self.stats
        stats.num_requests += messages
        stats.processing_time += int(seconds * 1e9) * messages
        stats.average_processing_time = stats.processing_time // stats.num_requests

    def failed(self, code: str) -> None:
        """Count one message whose reply holds an error, and keep the code of that error."""
        self.stats.num_errors += 1
        self.stats.last_error = code


class Discovery:
    """Responder to PING, INFO and STATS for one service instance."""

    def __init__(
        self,
        nats: Client,
        name: str,
        instance: str,
        version: str,
        served: list[Served],
        replies: ReplyGuard,
        description: str | None = None,
        missing: Callable[[], list[str]] = list,
    ) -> None:
        """missing: the conditions of being ready that do not hold now; a PING's answer names them in its metadata."""
        self._replies = replies
        self._nats = nats
        self._name = name
        self._instance = instance
        self._served = served
        self._subscriptions: list[Subscription] = []
        self._missing = missing
        self._ping = ServicePing(instance, name, version)
        self._info = ServiceInfo(
            name, instance, version, description=description, endpoints=[each.info for each in served]
        )
        self._stats = ServiceStats(
            instance, name, version, datetime.now(UTC), [each.stats for each in served]
        )

    async def start(self) -> None:
        answers: dict[ServiceVerb, Callable[[], dict[str, Any]]] = {
            ServiceVerb.PING: self._pong,
            ServiceVerb.INFO: self._info.to_dict,
            ServiceVerb.STATS: self._stats.to_dict,
        }
        for verb, answer in answers.items():
            callback: Callable[[Msg], Awaitable[None]] = partial(self._answer, answer)
            for name, instance in ((None, None), (self._name, None), (self._name, self._instance)):
                subject = control_subject(verb, name, instance)
                self._subscriptions.append(await self._nats.subscribe(subject, cb=callback))

    def stop(self) -> list[Subscription]:
        """Return the subscriptions; the caller ends them together with those of the endpoints."""
        subscriptions, self._subscriptions = self._subscriptions, []
        return subscriptions

    def _pong(self) -> dict[str, Any]:
        missing = self._missing()
        return self._ping.to_dict() | ({"metadata": {MISSING: ",".join(missing)}} if missing else {})

    async def _answer(self, answer: Callable[[], dict[str, Any]], msg: Msg) -> None:
        if msg.reply and self._replies.admits(msg.reply):
            await self._nats.publish(msg.reply, json.dumps(answer()).encode())
