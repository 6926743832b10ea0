"""flow.set_waiting and flow.resume, and what wakes a flow that waits: a time, an event from outside, somebody's word.

Events are published on `<root>.event.<topic>` with a correlation id. Each is kept for a while in every partition, and
wakes each flow that waits for it once, also one that begins to wait a moment later. JSON is merged here, so waking
takes two steps: the state machine names who waits, with their states, and lets each go on with its new state, as long
as that is of the same revision.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from penstock.bus.consumer import Outcome
from penstock.bus.endpoints import Call
from penstock.bus.published import Published, outcome, read
from penstock.errors import PenstockError, invalid
from penstock.machine import Machine
from penstock.machine.flow_states import change, checked, merge, patch_of
from penstock.machine.ops import signal_router as ops
from penstock.messages.common import Kind
from penstock.messages.flows import EventWait, Flow, FlowResume, FlowSetWaiting, TimerWait

CORRELATION_HEADER: Final = "penstock-correlation-id"
SHOWN_BYTES: Final = 64 * 1024
"""Of a larger event nothing is kept but that it came."""
_json: Final = msgspec.json.Decoder().decode


class FlowWaits:
    """Handlers about flows that wait, and the consumer of published events."""

    def __init__(
        self,
        machine: Machine,
        *,
        root: str,
        payload_limit: int,
        spawn: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self._machine = machine
        self._prefix = f"{root}.event."
        self._limit = payload_limit
        self._spawn = spawn

    # -- verbs ------------------------------------------------------------------------------------

    async def set_waiting(self, call: Call[FlowSetWaiting]) -> Sequence[Any]:
        item = call.items[0]
        begin = ops.FlowSetWaiting.of(item, wait=msgspec.to_builtins(item.wait))
        if isinstance(item.wait, TimerWait):
            begin.at = item.wait.at
        elif isinstance(item.wait, EventWait):
            begin.at = item.wait.timeout_at
            begin.topic, begin.correlation_id = item.wait.topic, item.wait.correlation_id
        begun = await self._machine.run(begin)
        if begun.event is None or begin.topic is None:
            return [begun.flow]
        waiter = ops.Waiter(
            flow_id=item.flow_id,
            wait_id=begun.wait_id,
            # By now a payload is its JSON text.
            state=str(begun.flow.state),
            revision=begun.flow.revision,
        )
        await self._wake(waiter, begin.topic, begun.event)
        return [await self._machine.run(ops.FlowGet(flow_id=item.flow_id))]

    async def resume(self, call: Call[FlowResume]) -> Sequence[Any]:
        item = call.items[0]
        patch = patch_of(item)

        def merged(seen: ops.StateSeen) -> str:
            return checked(merge(seen.state, patch or "{}"), self._limit)

        async def write(state: str | None, revision: int | None) -> Flow:
            return await self._machine.run(ops.FlowResume.of(item, state=state, expected_revision=revision))

        return [await change(self._machine, item, None if patch is None else merged, write)]

    # -- events -----------------------------------------------------------------------------------

    async def handle(self, messages: list[Msg]) -> Sequence[Outcome]:
        """An outcome for each message; the consumer's handler."""
        return await asyncio.gather(*(self._outcome(message) for message in messages))

    async def _outcome(self, message: Msg) -> Outcome:
        try:
            await self._come(read(message, self._prefix))
        except PenstockError as error:
            return outcome(error)
        return outcome(None)

    async def _come(self, published: Published) -> None:
        topic, correlation_id, body = _event(published)
        event = ops.EventKept(event_id=published.message_id, body=body)
        come = ops.EventCome(
            topic=topic, correlation_id=correlation_id, event_id=event.event_id, body=event.body
        )
        found = await self._machine.everywhere(come)
        await asyncio.gather(*(self._wake_all(p, seen, come, event) for p, seen in enumerate(found)))

    async def _wake_all(
        self, partition: int, seen: ops.EventSeen, come: ops.EventCome, event: ops.EventKept
    ) -> None:
        """Those of one partition who wait for an event, slice by slice."""
        while True:
            await asyncio.gather(*(self._wake(waiter, come.topic, event) for waiter in seen.waiters))
            if seen.after is None:
                return
            rest = msgspec.structs.replace(come, after=seen.after)
            seen = await self._machine.run(rest, at=partition)

    async def _wake(self, waiter: ops.Waiter, topic: str, event: ops.EventKept) -> None:
        """Lets a flow go on; read again as often as somebody else changes its state meanwhile."""
        while True:
            wake = ops.FlowWake.of(
                waiter,
                event_id=event.event_id,
                topic=topic,
                body=event.body,
                state=_with_event(waiter.state, event.body, self._limit),
            )
            if (await self._machine.run(wake)).done:
                return
            try:
                seen = await self._machine.run(ops.FlowState(flow_id=waiter.flow_id))
            except PenstockError as error:
                if error.retryable:
                    raise
                return  # it has ended, or is to be cancelled: it waits for no event
            waiter.state, waiter.revision = seen.state, seen.revision

    def due(self, _partition: int, done: ops.DueDone) -> None:
        """Flows whose event came before they began to wait, and whose router died before it woke them."""
        for work in msgspec.convert(done.outside, list[ops.DueFlow]):
            self._spawn(self._wake_late(work))

    async def _wake_late(self, work: ops.DueFlow) -> None:
        seen = await self._machine.run(ops.FlowState(flow_id=work.flow_id))
        waiter = ops.Waiter(
            flow_id=work.flow_id, wait_id=work.wait_id, state=seen.state, revision=seen.revision
        )
        await self._wake(waiter, work.topic, work.event)


def _event(published: Published) -> tuple[str, str, str]:
    """Topic, correlation id and body (JSON text). Raises PenstockError("invalid_request") for what is no event."""
    try:
        topic = msgspec.convert(published.subject, Kind)
    except msgspec.ValidationError:
        raise invalid("topic", "the subject must end in tokens joined by dots") from None
    correlation_id = published.headers.get(CORRELATION_HEADER, "")
    if not 1 <= len(correlation_id) <= 256:
        raise invalid("Penstock-Correlation-Id", "the header must be there, with 1 to 256 characters")
    body = published.body.strip() or b"null"
    try:
        _json(body)
        text = body.decode()
        return topic, correlation_id, text if len(body) <= SHOWN_BYTES else "null"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("body", f"is no JSON: {error}"[:300]) from None


def _with_event(state: str, body: str, limit: int) -> str | None:
    """The state with the event in it; None where it is no object, or too large: then the state stays as it is."""
    if not body.startswith("{"):
        return None
    merged = merge(state, f'{{"event":{body}}}')
    return merged if len(merged.encode()) <= limit else None
