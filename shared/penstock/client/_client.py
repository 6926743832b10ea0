"""`Client`: everything that can be asked of Penstock, typed, over one NATS connection."""

from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, Unpack, cast, overload

from msgspec import UNSET
from nats.aio.client import Client as Nats

from penstock import errors, verbs
from penstock.bus.connection import connect, leave
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester, encode
from penstock.client import _frames as frames
from penstock.client._budgets import Budgets
from penstock.client._events import EventStream
from penstock.client._flows import Flows
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
from penstock.messages.signals import Delivered, SignalDeliver, SignalSend
from penstock.states import ExecutionState
from penstock.subjects import event_subject, signal_subject
from penstock.verbs import Verb


class Client:
    """A connection to Penstock. Every call raises the typed `PenstockError` that the service answers.

    Executions are its own calls; what is about other things is in `flows`, `schedules`, `quotas`, `budgets`,
    `waitpoints`, `mirror_rules`, `triggers`,
    `lanes` and `workers`.

    >>> async with await Client.connect("nats://localhost:4222") as client:
    ...     run = await client.submit("mail.send", {"to": "a@example.com"}, max_attempts=5)
    ...     print(await run.result(timeout=30))
    """

    def __init__(self, nats: Nats, *, root: str = "penstock", timeout: float = 10.0) -> None:
        """Over a NATS connection that exists (`connect` makes one); `timeout`: seconds for one call."""
        self.nats = nats
        self.root = root
        self._requester = Requester(nats, root, timeout=timeout)
        self._publisher = Publisher(nats, timeout)
        self.flows = Flows(nats, self._requester, self._publisher)
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
    ) -> Self:
        """Connect to NATS. `credentials` is the path of a NATS credentials file."""
        return cls(await connect(url, name, credentials), root=root, timeout=timeout)

    async def close(self) -> None:
        """Send what is still to be sent, and close the connection."""
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
        """Create an execution. `input` is anything that msgspec can encode."""
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
        """Create many in as few messages as they fit in.

        An item is `(kind, input)`, or the fields of `execution.create`; `options` hold for all that do not
        say otherwise. One bad item does not hurt the rest: its error is raised once all are answered, or
        stands in its place with `return_errors`.
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
        """A handle on an execution that exists."""
        return Run(self._requester, execution_id)

    async def get(self, execution_id: str) -> Record:
        """An execution's record. `input` and `result` are raw JSON (`msgspec.json.decode` reads them)."""
        return await self._requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=execution_id))

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
        """Executions for which all filters hold, newest first; fetched `page` at a time.

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
        """An execution's events, oldest first."""
        return each(
            self._requester,
            verbs.EXECUTION_HISTORY,
            lambda cursor: ExecutionHistory(execution_id=execution_id, cursor=cursor),
        )

    def frames(
        self, execution_id: str, *, follow: bool = False, attempt_index: int | None = None, after: int = 0
    ) -> AsyncIterator[Frame]:
        """What its worker put out with `task.append_frame`, in order, behind index `after`.

        `follow`: also what comes, until the execution has ended; no frame is missed and none comes twice.
        """
        if follow:
            return frames.followed(self.nats, self._requester, execution_id, attempt_index, after)
        return frames.stored(self._requester, execution_id, attempt_index, after)

    async def cancel(self, execution_id: str, reason: str = "", *, grace_ms: int = 10_000) -> str:
        """Ask for an execution's end. Answers its state."""
        return await self.run(execution_id).cancel(reason, grace_ms=grace_ms)

    async def replay(
        self, execution_id: str, *, input: Any = UNSET, idempotency_key: str | None = None
    ) -> Run:
        """Run an ended execution again, as a new one; with another input, if one is given."""
        request = ExecutionReplay(
            execution_id=execution_id,
            input=UNSET if input is UNSET else raw_of(input),
            idempotency_key=idempotency_key,
        )
        created = await self._requester.call(verbs.EXECUTION_REPLAY, request)
        return Run(self._requester, created.execution_id, duplicate=created.duplicate)

    async def run_now(self, execution_id: str) -> Record:
        """Let what waits for a time (run_at, a backoff, a delay) go on at once."""
        request = ExecutionRunNow(execution_id=execution_id)
        return await self._requester.call(verbs.EXECUTION_RUN_NOW, request)

    async def suspend(self, execution_id: str, reason: str = "") -> str:
        """Hold what runs, until `resume`; its worker is told. Answers its state."""
        request = ExecutionSuspend(execution_id=execution_id, reason=reason)
        return (await self._requester.call(verbs.EXECUTION_SUSPEND, request)).state

    async def resume(self, execution_id: str, reason: str = "") -> str:
        """Let what is suspended, for whatever reason, go on with the same attempt. Answers its state."""
        request = ExecutionResume(execution_id=execution_id, reason=reason)
        return (await self._requester.call(verbs.EXECUTION_RESUME, request)).state

    async def change_priority(self, execution_id: str, priority: int) -> Record:
        """Order an execution anew: -128 to 127, higher is sooner."""
        request = ExecutionChangePriority(execution_id=execution_id, priority=priority)
        return await self._requester.call(verbs.EXECUTION_CHANGE_PRIORITY, request)

    async def set_tags(self, execution_id: str, tags: Mapping[str, str]) -> Record:
        """Give an execution these tags and no others."""
        request = ExecutionSetTags(execution_id=execution_id, tags=dict(tags))
        return await self._requester.call(verbs.EXECUTION_SET_TAGS, request)

    async def explain(self, execution_id: str) -> Explanation:
        """Why an execution does not run now, and what to do about it."""
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
        """Deliver a signal to the waitpoint whose token this is; answers its effect."""
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
        """Deliver a signal without a token, as an operator; answers its effect.

        It goes to the waitpoint with this key, or to the one that the execution waits on, or to its only pending one.
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
        """Publish an event that flows wait for; JetStream keeps it until applied. Answers its id.

        Published again with the same id, it wakes nobody twice.
        """
        event_id = event_id or uuid7()
        headers = {"Nats-Msg-Id": event_id, "Penstock-Correlation-Id": correlation_id}
        await self._publisher.publish(event_subject(self.root, topic), encode(raw_of(body)), headers)
        return event_id

    async def publish_signal(
        self, waitpoint_id: str, name: str, token: str, payload: Any = NULL, *, signal_id: str | None = None
    ) -> str:
        """Publish a signal: JetStream keeps it until applied, also while every router is down.

        Answers the signal id; published again with the same one, it acts once.
        """
        signal_id = signal_id or uuid7()
        subject = signal_subject(self.root, waitpoint_id, name)
        headers = {"Nats-Msg-Id": signal_id, "Penstock-Token": token}
        await self._publisher.publish(subject, encode(raw_of(payload)), headers)
        return signal_id

    # What happens.

    def events(self, namespace: str = "*", entity: str = "*", event: str = "*", id: str = "*") -> EventStream:
        """Audit events as they happen: `async with client.events(entity="flow") as events: async for …`."""
        return EventStream(self.nats, f"{self.root}.audit.{namespace}.{entity}.{event}.{id}")


def _item(item: tuple[str, Any] | Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    if isinstance(item, tuple):
        return create_request(item[0], item[1], options)
    fields: dict[str, Any] = {**options, **item}
    return create_request(fields.pop("kind"), fields.pop("input", NULL), fields)
