"""`Client`: one NATS connection, and all that can be called over it: methods of its own, and parts with methods.

Its methods about executions are in `_executions.py`, those about signals in `_signals.py`.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, cast

from nats.aio.client import Client as Nats

from penstock.bus.connection import connect, leave
from penstock.client._budgets import Budgets
from penstock.client._bulks import Bulks
from penstock.client._events import EventStream
from penstock.client._executions import ExecutionCalls
from penstock.client._flows import Flows
from penstock.client._journals import Journals
from penstock.client._lanes import Lanes, Workers
from penstock.client._mirror_rules import MirrorRules
from penstock.client._options import request_of, verb_named
from penstock.client._publishing import Publisher
from penstock.client._quotas import Quotas
from penstock.client._schedules import Schedules
from penstock.client._signals import SignalCalls
from penstock.client._triggers import Triggers
from penstock.client._waitpoints import Waitpoints
from penstock.codecs import Codecs
from penstock.messages.common import Reply
from penstock.sdk.requester import Extras
from penstock.verbs import Verb


class Client(ExecutionCalls, SignalCalls):
    """A connection to Penstock. Every call raises the typed `PenstockError` that the service replies with.

    The client's own methods are about executions, signals and events. Other things have attributes of their own:
    `flows`, `journals`, `schedules`, `quotas`, `budgets`, `waitpoints`, `mirror_rules`, `triggers`,
    `bulks`, `lanes` and `workers`.

    >>> async with await Client.connect("nats://localhost:4222") as client:
    ...     run = await client.submit("mail.send", {"to": "a@example.com"}, max_attempts=5)
    ...     print(await run.result(timeout=30))
    """

    def __init__(
        self, nats: Nats, *, root: str = "penstock", timeout: float = 10.0, codec: Codecs = None
    ) -> None:
        """Use an open NATS connection (`Client.connect` opens one). `timeout` is in seconds, for each call.

        `codec` is one of `penstock.codecs` or a list: payloads pass through it on their way to the services and back.
        """
        self.nats = nats
        self.root = root
        extras = Extras.of(nats, codec)
        self._coding = extras.coding
        self._requester = extras.requester(nats, root, timeout=timeout)
        self._publisher = Publisher(nats, timeout, extras.coding)
        self.bulks = Bulks(self._requester)
        self.flows = Flows(self._requester, self._publisher)
        self.journals = Journals(self._requester)
        self.schedules = Schedules(self._requester)
        self.quotas = Quotas(self._requester)
        self.budgets = Budgets(self._requester)
        self.waitpoints = Waitpoints(self._requester)
        self.mirror_rules = MirrorRules(self._requester)
        self.triggers = Triggers(self._requester)
        self.lanes = Lanes(self._requester)
        self.workers = Workers(self._requester)

    @classmethod
    async def connect(
        cls,
        url: str = "nats://localhost:4222",
        credentials: str | None = None,
        *,
        root: str = "penstock",
        timeout: float = 10.0,
        name: str = "penstock-client",
        codec: Codecs = None,
    ) -> Self:
        """Connect to NATS and return a client. `credentials` is the path of a NATS credentials file."""
        return cls(await connect(url, name, credentials), root=root, timeout=timeout, codec=codec)

    async def close(self) -> None:
        """Flush outgoing messages and close the connection. Calls that still wait for a reply fail."""
        await self._requester.close()
        await leave(self.nats)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Any verb.

    async def call(
        self,
        verb: str | Verb[Any, Any],
        request: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Reply:
        """Call any verb with plain values: `await client.call("execution.get", {"execution_id": …})`."""
        known = verb_named(verb) if isinstance(verb, str) else verb
        return cast(
            Reply, await self._requester.call(known, request_of(known, request or {}), timeout=timeout)
        )

    # Audit events.

    def events(self, namespace: str = "*", entity: str = "*", event: str = "*", id: str = "*") -> EventStream:
        """Stream audit events as they happen: `async with client.events(entity="flow") as events: async for …`."""
        return EventStream(self.nats, f"{self.root}.audit.{namespace}.{entity}.{event}.{id}")
