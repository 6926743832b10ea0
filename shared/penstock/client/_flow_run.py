"""`FlowRun`: a handle on one flow, managed or mirrored."""

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from msgspec import UNSET

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester, encode
from penstock.client._options import CancelPolicy, StepStatus
from penstock.client._pages import each
from penstock.client._publishing import Publisher
from penstock.client._run import Run
from penstock.client._waiting import wait_for_end
from penstock.ids import uuid7
from penstock.messages.cancellation import FlowCancel, FlowCancelled, FlowRequestCancel
from penstock.messages.common import NULL
from penstock.messages.flows import (
    EventWait,
    Flow,
    FlowFail,
    FlowFinish,
    FlowGet,
    FlowGraph,
    FlowResume,
    FlowSetWaiting,
    FlowStart,
    FlowSteps,
    FlowUpdateState,
    FlowWait,
    Graph,
    ManualWait,
    Observe,
    Step,
    TimerWait,
)
from penstock.states import FLOW_TERMINAL
from penstock.subjects import observation_subject

MARGIN_S: Final = 5.0


class FlowRun:
    """A handle on one flow, `flow_id`. On a newly created managed flow, `members[key]` is the member's `Run`."""

    __slots__ = ("_publisher", "_requester", "created", "flow_id", "members")

    def __init__(
        self,
        requester: Requester,
        publisher: Publisher,
        flow_id: str,
        created: Flow | None = None,
    ) -> None:
        self._requester = requester
        self._publisher = publisher
        self.flow_id = flow_id
        self.created = created
        keys = (created.members if created else None) or {}
        self.members = {key: Run(requester, execution_id) for key, execution_id in keys.items()}

    def __repr__(self) -> str:
        return f"FlowRun({self.flow_id!r})"

    async def start(self) -> Flow:
        """Start the flow: make its root members ready."""
        return await self._requester.call(verbs.FLOW_START, FlowStart(flow_id=self.flow_id))

    async def update_state(
        self, patch: Any = UNSET, *, next_step: str | None = None, expected_revision: int | None = None
    ) -> Flow:
        """Merge `patch` shallowly into the state (a non-object replaces it). `next_step` becomes `current_step`."""
        request = FlowUpdateState(
            flow_id=self.flow_id,
            state_patch=patch if patch is UNSET else raw_of(patch),
            next_step=next_step,
            expected_revision=expected_revision,
        )
        return await self._requester.call(verbs.FLOW_UPDATE_STATE, request)

    # A request to wait that arrives late, after the flow has waited and gone on, would make it wait once more: of a
    # request that was sent again because no answer came, the first may still be under way. `expected_revision` (that of
    # the flow as it was read before) lets only one of them count; the other raises `revision_mismatch`.

    async def wait_until(self, at: int, *, expected_revision: int | None = None) -> Flow:
        """Make the flow wait until `at` (ms since the Unix epoch). Running members go on, no member is started.

        To send this again when no answer came, pass the revision that the flow has now as `expected_revision`.
        """
        return await self._set_waiting(TimerWait(at=at), expected_revision)

    async def wait_for_event(
        self,
        topic: str,
        correlation_id: str,
        *,
        timeout_at: int | None = None,
        expected_revision: int | None = None,
    ) -> Flow:
        """Make the flow wait for an event with this topic and id (`client.publish_event`). A recent past event counts.

        When the flow goes on, its state has the event as `event`. The flow goes on without an event at `timeout_at`.
        To send this again when no answer came, pass the revision that the flow has now as `expected_revision`.
        """
        wait = EventWait(topic=topic, correlation_id=correlation_id, timeout_at=timeout_at)
        return await self._set_waiting(wait, expected_revision)

    async def wait_for_resume(self, *, expected_revision: int | None = None) -> Flow:
        """Make the flow wait until `resume` is called. `expected_revision`: see `wait_until`."""
        return await self._set_waiting(ManualWait(), expected_revision)

    async def _set_waiting(self, wait: TimerWait | EventWait | ManualWait, revision: int | None) -> Flow:
        request = FlowSetWaiting(flow_id=self.flow_id, wait=wait, expected_revision=revision)
        return await self._requester.call(verbs.FLOW_SET_WAITING, request)

    async def resume(
        self, patch: Any = UNSET, *, next_step: str | None = None, expected_revision: int | None = None
    ) -> Flow:
        """End the flow's wait, of any kind. `patch` is merged into the flow's state as in `update_state`."""
        request = FlowResume(
            flow_id=self.flow_id,
            state_patch=patch if patch is UNSET else raw_of(patch),
            next_step=next_step,
            expected_revision=expected_revision,
        )
        return await self._requester.call(verbs.FLOW_RESUME, request)

    async def finish(self) -> Flow:
        """Finish the flow successfully. Members that have not begun are skipped."""
        return await self._requester.call(verbs.FLOW_FINISH, FlowFinish(flow_id=self.flow_id))

    async def fail(self, reason: str) -> Flow:
        """Fail the flow. Its state has the reason under `failure`."""
        return await self._requester.call(verbs.FLOW_FAIL, FlowFail(flow_id=self.flow_id, reason=reason))

    async def get(self) -> Flow:
        """Return the flow's record. Its `state` is a plain Python value, and `raw_state` its JSON, byte for byte."""
        return await self._requester.call(verbs.FLOW_GET, FlowGet(flow_id=self.flow_id))

    async def graph(self) -> Graph:
        """Return the flow's members, edges and joins."""
        return await self._requester.call(verbs.FLOW_GRAPH, FlowGraph(flow_id=self.flow_id), timeout=30.0)

    def steps(self) -> AsyncIterator[Step]:
        """Iterate over the flow's steps, oldest first. Each has its `result`, and as JSON its `raw_result`."""
        return each(
            self._requester, verbs.FLOW_STEPS, lambda cursor: FlowSteps(flow_id=self.flow_id, cursor=cursor)
        )

    async def request_cancel(self) -> Flow:
        """Record a sticky request to cancel. From now on the flow can only become cancelled."""
        return await self._requester.call(verbs.FLOW_REQUEST_CANCEL, FlowRequestCancel(flow_id=self.flow_id))

    async def cancel(
        self,
        policy: CancelPolicy = "cancel_all",
        reason: str = "",
        *,
        wait: bool = False,
        wait_s: float = 30.0,
        grace_ms: int = 10_000,
    ) -> FlowCancelled:
        """Cancel the flow at once; running handlers have `grace_ms` to stop.

        With `wait`, wait at most `wait_s` seconds for the members to stop.
        """
        request = FlowCancel(
            flow_id=self.flow_id,
            policy=policy,
            reason=reason,
            wait=wait,
            wait_ms=round(wait_s * 1000),
            grace_ms=grace_ms,
        )
        timeout = (wait_s if wait else 0.0) + MARGIN_S
        return await self._requester.call(verbs.FLOW_CANCEL, request, timeout=timeout)

    async def observe(
        self,
        run_id: str,
        task: str,
        status: StepStatus,
        result: Any = NULL,
        *,
        child_session_key: str | None = None,
        observed_at: int | None = None,
    ) -> Step:
        """Report a step's status in this mirrored flow, and wait until the report is applied."""
        request = Observe(
            flow_id=self.flow_id,
            run_id=run_id,
            task=task,
            status=status,
            result=raw_of(result),
            child_session_key=child_session_key,
            observed_at=observed_at,
        )
        return await self._requester.call(verbs.FLOW_OBSERVE, request)

    async def publish_observation(
        self,
        run_id: str,
        task: str,
        status: StepStatus,
        result: Any = NULL,
        *,
        child_session_key: str | None = None,
        observed_at: int | None = None,
        message_id: str | None = None,
    ) -> str:
        """Report a step like `observe`, but return as soon as JetStream has stored the report.

        The report is applied once, even if the service is down now. Return the message id. Publishing again with
        the same `message_id` has no further effect.
        """
        payload = await self._publisher.payload(result)
        body: dict[str, Any] = {"run_id": run_id, "task": task, "status": status, "result": payload}
        if child_session_key is not None:
            body["child_session_key"] = child_session_key
        body["observed_at"] = int(time.time() * 1000) if observed_at is None else observed_at
        message_id = message_id or uuid7()
        subject = observation_subject(self._requester.root, self.flow_id)
        await self._publisher.publish(subject, encode(body), {"Nats-Msg-Id": message_id})
        return message_id

    async def wait(self, timeout: float | None = None) -> Flow:
        """Wait until the flow is finished, failed or cancelled. Raise `TimeoutError` after `timeout` seconds."""
        return await wait_for_end(
            self._requester,
            verbs.FLOW_WAIT,
            lambda wait_ms: FlowWait(flow_id=self.flow_id, wait_ms=wait_ms),
            lambda flow: flow.status in FLOW_TERMINAL,
            lambda flow: f"flow {self.flow_id} is {flow.status}",
            timeout,
        )
