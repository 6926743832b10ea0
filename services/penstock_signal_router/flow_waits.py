"""flow.set_waiting and flow.resume. A waiting flow is woken by a time, by an external event or by a flow.resume.

Events are published on `<root>.event.<topic>` with a correlation id. Every partition keeps each event for a while, so
an event also wakes a flow that begins to wait a moment later; no event wakes a flow twice. JSON is merged here, not in
Lua, so waking takes two steps: one operation returns the waiting flows and their states, a second one resumes each
flow with its merged state, provided that the flow still has the same revision.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from penstock.bus.calls import Call
from penstock.bus.outcomes import Outcome
from penstock.bus.published import Published, outcome, read
from penstock.errors import PenstockError, invalid
from penstock.machine import Machine
from penstock.machine.flow_states import change, checked, merge, patch_of
from penstock.machine.ops import signal_router as ops
from penstock.messages.common import Kind
from penstock.messages.flows import EventWait, Flow, FlowResume, FlowSetWaiting, TimerWait

CORRELATION_HEADER: Final = "penstock-correlation-id"
SHOWN_BYTES: Final = 64 * 1024
"""Most bytes of an event's body. A larger body is replaced by null; the event still wakes flows."""
_json: Final = msgspec.json.Decoder().decode


class FlowWaits:
    """Handlers of the verbs about waiting flows, and of the stream of published events."""

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
            # The state is its JSON text here, not a decoded value.
            state=str(begun.flow.raw_state),
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
        """Handle a batch of the consumer. Return one outcome per message."""
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
        await asyncio.gather(
            *(self._wake_all(p, seen, come, event) for p, seen in enumerate(found)),
            *(self._signal_all(p, come) for p, seen in enumerate(found) if seen.waitpoints),
        )

    async def _signal_all(self, partition: int, come: ops.EventCome) -> None:
        """End all waits of durable functions for the event in one partition, slice by slice."""
        signal = ops.EventSignal(**msgspec.structs.asdict(come))
        while (after := (await self._machine.run(signal, at=partition)).after) is not None:
            signal = msgspec.structs.replace(signal, after=after)

    async def _wake_all(
        self, partition: int, seen: ops.EventSeen, come: ops.EventCome, event: ops.EventKept
    ) -> None:
        """Wake all flows of one partition that wait for the event, slice by slice."""
        while True:
            await asyncio.gather(*(self._wake(waiter, come.topic, event) for waiter in seen.waiters))
            if seen.after is None:
                return
            rest = msgspec.structs.replace(come, after=seen.after)
            seen = await self._machine.run(rest, at=partition)

    async def _wake(self, waiter: ops.Waiter, topic: str, event: ops.EventKept) -> None:
        """Resume a waiting flow with the event. Whenever its revision has changed, read the state again and retry."""
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
                return  # the flow has ended or is being cancelled, so it waits for no event
            waiter.state, waiter.revision = seen.state, seen.revision

    def due(self, _partition: int, done: ops.DueDone) -> None:
        """Wake flows whose event came before their wait began and whose router died before it woke them."""
        for work in msgspec.convert(done.outside, list[ops.DueFlow]):
            self._spawn(self._wake_late(work))

    async def _wake_late(self, work: ops.DueFlow) -> None:
        seen = await self._machine.run(ops.FlowState(flow_id=work.flow_id))
        waiter = ops.Waiter(
            flow_id=work.flow_id, wait_id=work.wait_id, state=seen.state, revision=seen.revision
        )
        await self._wake(waiter, work.topic, work.event)


def _event(published: Published) -> tuple[str, str, str]:
    """Return topic, correlation id and body (JSON text). Raise PenstockError("invalid_request") if it is no event."""
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
    """Return the state with the event merged in; None (keep the state) if the event is no object or too large."""
    if not body.startswith("{"):
        return None
    merged = merge(state, f'{{"event":{body}}}')
    return merged if len(merged.encode()) <= limit else None
