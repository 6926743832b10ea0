"""`Client`: a typed method for every public request to Penstock, over one NATS connection."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, Unpack, cast, overload

from msgspec import UNSET
from nats.aio.client import Client as Nats

from penstock import errors, verbs
from penstock.bus.connection import connect, leave
from penstock.bus.payloads import raw_of
from penstock.bus.requester import encode
from penstock.client import _frames as frames
from penstock.client._budgets import Budgets
from penstock.client._bulks import Bulks
from penstock.client._events import EventStream
from penstock.client._flows import Flows
from penstock.client._journals import Journals
from penstock.client._lanes import Lanes, Workers
from penstock.client._mirror_rules import MirrorRules
from penstock.client._options import (
    ExecutionOptions,
    create_request,
    request_of,
    verb_named,
)
from penstock.client._pages import each
from penstock.client._publishing import Publisher
from penstock.client._quotas import Quotas
from penstock.client._run import Run
from penstock.client._schedules import Schedules
from penstock.client._triggers import Triggers
from penstock.client._waitpoints import Waitpoints
from penstock.codecs import Codecs
from penstock.ids import uuid7
from penstock.messages.common import NULL, Record, Reply
from penstock.messages.control import (
    ExecutionChangePriority,
    ExecutionExplain,
    ExecutionReplay,
    ExecutionResume,
    ExecutionRunNow,
    ExecutionSetTags,
    ExecutionSuspend,
    Explanation,
)
from penstock.messages.executions import (
    ExecutionCreated,
    ExecutionEvent,
    ExecutionGet,
    ExecutionHistory,
    ExecutionList,
)
from penstock.messages.frames import Frame
from penstock.messages.search import ExecutionFilter, ExecutionRow, ExecutionSearch
from penstock.messages.signals import Delivered, SignalDeliver, SignalSend
from penstock.messages.statistics import FailureGroup, FailureGroups
from penstock.sdk.requester import Extras
from penstock.states import ExecutionState
from penstock.subjects import event_subject, signal_subject
from penstock.verbs import Verb


class Client:
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
        self.flows = Flows(nats, self._requester, self._publisher)
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

    # Executions.

    async def submit(self, kind: str, input: Any = NULL, **options: Unpack[ExecutionOptions]) -> Run:
        """Create an execution and return a handle on it. `input` is any value that msgspec can encode."""
        request = create_request(kind, input, options)
        created = await self._requester.call(verbs.EXECUTION_CREATE, request)
        return Run(self._requester, created.execution_id, duplicate=created.duplicate)

    @overload
    async def submit_many(
        self, items: Iterable[tuple[str, Any] | Mapping[str, Any]], **options: Unpack[ExecutionOptions]
    ) -> list[Run]: ...
    @overload
    async def submit_many(
        self,
        items: Iterable[tuple[str, Any] | Mapping[str, Any]],
        *,
        return_errors: Literal[True],
        **options: Unpack[ExecutionOptions],
    ) -> list[Run | errors.PenstockError]: ...
    async def submit_many(
        self,
        items: Iterable[tuple[str, Any] | Mapping[str, Any]],
        *,
        return_errors: bool = False,
        **options: Unpack[ExecutionOptions],
    ) -> Any:
        """Create many executions, in as few messages as possible. Return their handles in order.

        An item is `(kind, input)`, or the fields of `execution.create`. `options` are defaults for all items.
        A bad item does not stop the others: the first error is raised after all replies have come. With
        `return_errors`, nothing is raised and each error stands in the list in place of its run.
        """
        requests = [_item(item, options) for item in items]
        futures = [self._requester.send(verbs.EXECUTION_CREATE, request) for request in requests]
        runs: list[Run | errors.PenstockError] = []
        first: errors.PenstockError | None = None
        for future in futures:
            try:
                created: ExecutionCreated = await future
                runs.append(Run(self._requester, created.execution_id, duplicate=created.duplicate))
            except errors.PenstockError as error:
                first = first or error
                runs.append(error)
        if first is not None and not return_errors:
            raise first
        return runs

    def run(self, execution_id: str) -> Run:
        """Return a handle on an existing execution, without a request."""
        return Run(self._requester, execution_id)

    async def get(self, execution_id: str) -> Record:
        """Return an execution's record.

        `input` and `result` are plain Python values, decoded at the first access. `raw_input` and `raw_result` are
        their JSON, byte for byte: `msgspec.json.decode(record.raw_result, type=…)` decodes it to a type.
        """
        return await self._requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=execution_id))

    def search(self, *, page: int = 100, **wanted: Any) -> AsyncIterator[ExecutionRow]:
        """Iterate over the executions that match all filters, newest first, without their payloads.

        `wanted` are the fields of `penstock.messages.search.ExecutionFilter`. A filter without an index looks at all
        executions, page by page.
        """
        everything = ExecutionFilter(**wanted)
        return each(
            self._requester,
            verbs.EXECUTION_SEARCH,
            lambda cursor: ExecutionSearch(filter=everything, cursor=cursor, limit=page),
        )

    async def failures(
        self,
        *,
        namespace: str | None = None,
        kind: str | None = None,
        category: str | None = None,
        limit: int = 100,
    ) -> Sequence[FailureGroup]:
        """Return groups of failures that match all filters, the latest first: at most `limit` (1000)."""
        request = FailureGroups(namespace=namespace, kind=kind, category=category, limit=limit)
        return (await self._requester.call(verbs.FAILURE_GROUPS, request)).items

    def list(
        self,
        *,
        namespace: str | None = None,
        lane: str | None = None,
        kind: str | None = None,
        state: ExecutionState | None = None,
        flow_id: str | None = None,
        tag: str | None = None,
        page: int = 100,
    ) -> AsyncIterator[Record]:
        """Iterate over the executions that match all filters, newest first, fetching `page` at a time.

        `tag` is a tag's name, or `name=value`.
        """
        return each(
            self._requester,
            verbs.EXECUTION_LIST,
            lambda cursor: ExecutionList(
                namespace=namespace,
                lane=lane,
                kind=kind,
                state=state,
                flow_id=flow_id,
                tag=tag,
                cursor=cursor,
                limit=page,
            ),
        )

    def history(self, execution_id: str) -> AsyncIterator[ExecutionEvent]:
        """Iterate over an execution's events, oldest first."""
        return each(
            self._requester,
            verbs.EXECUTION_HISTORY,
            lambda cursor: ExecutionHistory(execution_id=execution_id, cursor=cursor),
        )

    def frames(
        self, execution_id: str, *, follow: bool = False, attempt_index: int | None = None, after: int = 0
    ) -> AsyncIterator[Frame]:
        """Iterate over the frames that workers stored with `task.append_frame`, in order, after index `after`.

        With `follow`, wait for new frames too, until the execution has ended. No frame is missed or repeated.
        """
        if follow:
            return frames.followed(
                self.nats, self._requester, self._coding, execution_id, attempt_index, after
            )
        return frames.stored(self._requester, execution_id, attempt_index, after)

    async def cancel(self, execution_id: str, reason: str = "", *, grace_ms: int = 10_000) -> str:
        """Cancel an execution; a running handler has `grace_ms` to stop. Return the execution's state."""
        return await self.run(execution_id).cancel(reason, grace_ms=grace_ms)

    async def replay(
        self, execution_id: str, *, input: Any = UNSET, idempotency_key: str | None = None
    ) -> Run:
        """Run an ended execution again, as a new execution. `input` replaces the old input if given."""
        request = ExecutionReplay(
            execution_id=execution_id,
            input=UNSET if input is UNSET else raw_of(input),
            idempotency_key=idempotency_key,
        )
        created = await self._requester.call(verbs.EXECUTION_REPLAY, request)
        return Run(self._requester, created.execution_id, duplicate=created.duplicate)

    async def run_now(self, execution_id: str) -> Record:
        """Make an execution that waits for a time (run_at, a backoff, a delay) ready at once."""
        request = ExecutionRunNow(execution_id=execution_id)
        return await self._requester.call(verbs.EXECUTION_RUN_NOW, request)

    async def suspend(self, execution_id: str, reason: str = "") -> str:
        """Suspend a running execution until `resume`, and tell its worker. Return the execution's state."""
        request = ExecutionSuspend(execution_id=execution_id, reason=reason)
        return (await self._requester.call(verbs.EXECUTION_SUSPEND, request)).state

    async def resume(self, execution_id: str, reason: str = "") -> str:
        """Resume an execution suspended for any reason, with the same attempt. Return the execution's state."""
        request = ExecutionResume(execution_id=execution_id, reason=reason)
        return (await self._requester.call(verbs.EXECUTION_RESUME, request)).state

    async def change_priority(self, execution_id: str, priority: int) -> Record:
        """Change an execution's priority: -128 to 127, higher runs sooner."""
        request = ExecutionChangePriority(execution_id=execution_id, priority=priority)
        return await self._requester.call(verbs.EXECUTION_CHANGE_PRIORITY, request)

    async def set_tags(self, execution_id: str, tags: Mapping[str, str]) -> Record:
        """Replace all tags of an execution."""
        request = ExecutionSetTags(execution_id=execution_id, tags=dict(tags))
        return await self._requester.call(verbs.EXECUTION_SET_TAGS, request)

    async def explain(self, execution_id: str) -> Explanation:
        """Explain why an execution does not run now, and what to do about it."""
        request = ExecutionExplain(execution_id=execution_id)
        return await self._requester.call(verbs.EXECUTION_EXPLAIN, request)

    # Signals.

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

    # Audit events.

    def events(self, namespace: str = "*", entity: str = "*", event: str = "*", id: str = "*") -> EventStream:
        """Stream audit events as they happen: `async with client.events(entity="flow") as events: async for …`."""
        return EventStream(self.nats, f"{self.root}.audit.{namespace}.{entity}.{event}.{id}")


def _item(item: tuple[str, Any] | Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    if isinstance(item, tuple):
        return create_request(item[0], item[1], options)
    fields: dict[str, Any] = {**options, **item}
    return create_request(fields.pop("kind"), fields.pop("input", NULL), fields)
