"""`client.flows`: creates and lists flows. The methods of a single flow are in `_flow_run.py`."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Literal, Unpack, cast

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.client._flow_run import FlowRun
from penstock.client._options import FlowOptions, request_of
from penstock.client._pages import each
from penstock.client._publishing import Publisher
from penstock.messages.flows import Flow, FlowCreate, FlowCreateMirrored, FlowList
from penstock.states import FlowStatus


class Flows:
    """Methods to create and list flows. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester, publisher: Publisher) -> None:
        self._requester = requester
        self._publisher = publisher

    async def create(
        self,
        goal: str,
        *,
        members: Iterable[Mapping[str, Any]],
        edges: Iterable[Mapping[str, Any] | tuple[str, str]] = (),
        joins: Mapping[str, Mapping[str, Any]] | None = None,
        controller_id: str = "client",
        owner: str = "default",
        **options: Unpack[FlowOptions],
    ) -> FlowRun:
        """Create a managed flow with all its members (each has a `key`), edges and joins. Then call `start()` on it.

        An edge is `(from, to)` or `{"from", "to", "data"?}`.
        """
        request = _create_request(controller_id, goal, owner, members, edges, joins or {}, options)
        flow = await self._requester.call(verbs.FLOW_CREATE, request, timeout=30.0)
        return self._handle(flow)

    async def create_mirrored(
        self,
        goal: str,
        *,
        controller_id: str = "client",
        owner: str = "default",
        completion: Literal["manual", "all_steps", "on_task"] = "manual",
        completion_task: str | None = None,
        **options: Unpack[FlowOptions],
    ) -> FlowRun:
        """Create a flow that another system runs. Report its steps with `observe` or `publish_observation`."""
        fields = dict(options)
        if "state" in fields:
            fields["state"] = raw_of(fields["state"])
        request = FlowCreateMirrored(
            controller_id=controller_id,
            goal=goal,
            owner=owner,
            completion=completion,
            completion_task=completion_task,
            **cast(Any, fields),
        )
        flow = await self._requester.call(verbs.FLOW_CREATE_MIRRORED, request)
        return self._handle(flow)

    def run(self, flow_id: str) -> FlowRun:
        """Return a handle on an existing flow, without a request."""
        return FlowRun(self._requester, self._publisher, flow_id)

    def _handle(self, created: Flow) -> FlowRun:
        return FlowRun(self._requester, self._publisher, created.flow_id, created)

    def list(
        self, *, owner: str | None = None, status: FlowStatus | None = None, page: int = 100
    ) -> AsyncIterator[Flow]:
        """Iterate over the flows that match all filters, newest first, fetching `page` at a time."""
        return each(
            self._requester,
            verbs.FLOW_LIST,
            lambda cursor: FlowList(owner=owner, status=status, cursor=cursor, limit=page),
        )


def _create_request(
    controller_id: str,
    goal: str,
    owner: str,
    members: Iterable[Mapping[str, Any]],
    edges: Iterable[Mapping[str, Any] | tuple[str, str]],
    joins: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
) -> FlowCreate:
    """Build a `flow.create` request from plain values. An edge may be a pair `(from, to)`."""
    fields: dict[str, Any] = {
        "controller_id": controller_id,
        "goal": goal,
        "owner": owner,
        "members": list(members),
        "edges": [{"from": e[0], "to": e[1]} if isinstance(e, tuple) else e for e in edges],
        "joins": joins,
        **options,
    }
    return request_of(verbs.FLOW_CREATE, fields)
