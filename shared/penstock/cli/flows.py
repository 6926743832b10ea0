"""`penstock flow …`: graphs of executions."""

import getpass
import re
from typing import Annotated, Any, Literal, cast

import msgspec
from cyclopts import App, Parameter
from rich.markup import escape

from penstock.cli.output import clock, emit, emit_json, facts, listing, payload, styled
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import ShellArgument, TextOrDash, read_file
from penstock.messages.cancellation import FlowCancelled
from penstock.messages.common import Page
from penstock.messages.flows import Flow, Graph, Step
from penstock.states import FlowStatus

app = App(name="flow", help="Create, start, show and cancel flows: graphs of executions.")

LONG_S: float = 30.0
"""The timeout of calls about a whole graph, in seconds."""


@app.command
async def create(
    file: TextOrDash, /, *, start: Annotated[bool, Parameter(negative="")] = False, shell: ShellArgument
) -> None:
    """Create a flow from a JSON file; prints its id.

    The file holds the fields of flow.create: goal, members [{key, kind, input?, …}], edges [{from, to}].

    Parameters
    ----------
    file
        The file; - reads standard input.
    start
        Start it at once.
    """
    try:
        fields = msgspec.json.decode(read_file(file, "FILE"), type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{file} does not hold a flow: {error}") from None
    request: dict[str, Any] = {"controller_id": "cli", "owner": _owner(), "goal": "", **fields}
    async with shell.client() as client:
        flow = cast(Flow, await client.call("flow.create", request, timeout=LONG_S))
        if start:
            members = flow.members
            flow = cast(Flow, await client.call("flow.start", {"flow_id": flow.flow_id}, timeout=LONG_S))
            flow.members = members
    emit_json(flow) if shell.json else emit(flow.flow_id)


@app.command
async def start(flow_id: str, /, *, shell: ShellArgument) -> None:
    """Start a flow: its roots become ready.

    Parameters
    ----------
    flow_id
        Its id, as `penstock flow create` printed it.
    """
    flow = cast(Flow, await shell.ask("flow.start", {"flow_id": flow_id}, timeout=LONG_S))
    shell.show(flow, styled(flow.status))


@app.command
async def get(flow_id: str, /, *, shell: ShellArgument) -> None:
    """Show a flow: its status, its state, and the number of members in each state.

    Parameters
    ----------
    flow_id
        The flow's id.
    """
    flow = cast(Flow, await shell.ask("flow.get", {"flow_id": flow_id}))
    shell.show(flow, flow_facts(flow))


@app.command
async def graph(flow_id: str, /, *, shell: ShellArgument) -> None:
    """Show a flow's members, each with the members that it waits for.

    Parameters
    ----------
    flow_id
        The flow's id.
    """
    graph = cast(Graph, await shell.ask("flow.graph", {"flow_id": flow_id}, timeout=LONG_S))
    after: dict[str, list[str]] = {}
    for edge in graph.edges:
        after.setdefault(edge["to"], []).append(edge["from"])
    rows = (
        (
            escape(member["key"]),
            member["execution_id"],
            escape(member["kind"]),
            styled(member["state"], member.get("reason") or member.get("outcome")),
            escape(_few(after.get(member["key"], []))),
        )
        for member in graph.members
    )
    shell.show(graph, listing(("member", "execution", "kind", "state", "after"), rows))


@app.command(name="list")
async def list_(
    *,
    owner: str | None = None,
    status: FlowStatus | None = None,
    limit: int = 50,
    cursor: str | None = None,
    shell: ShellArgument,
) -> None:
    """List flows, newest first; all filters must hold.

    Parameters
    ----------
    owner
        Only this owner's.
    status
        Only those with this status.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"owner": owner, "status": status, "limit": limit, "cursor": cursor}
    page = cast(Page[Flow], await shell.ask("flow.list", request))
    rows = (
        (flow.flow_id, styled(flow.status), flow.kind, escape(flow.owner), _counts(flow), escape(flow.goal))
        for flow in page.items
    )
    shell.show_page(page, listing(("flow", "status", "kind", "owner", "members", "goal"), rows))


@app.command
async def cancel(
    flow_id: str,
    /,
    *,
    policy: Literal["cancel_all", "cancel_pending", "flow_only"] = "cancel_all",
    reason: str = "",
    wait: Annotated[bool, Parameter(negative="")] = False,
    wait_ms: int = 30_000,
    grace_ms: int | None = None,
    request_only: Annotated[bool, Parameter(negative="")] = False,
    shell: ShellArgument,
) -> None:
    """Cancel a flow at once; its members are stopped in the background, or with --wait before this returns.

    Parameters
    ----------
    flow_id
        The flow's id.
    policy
        Which members are cancelled too: all, those that no worker holds, or none.
    reason
        Why; it is kept with the flow.
    wait
        Wait until all members have stopped; exit code 1 when some have not.
    wait_ms
        How long to wait at most, in milliseconds.
    grace_ms
        How long running handlers have to stop, in milliseconds.
    request_only
        Only record the request: from now on the flow can only become cancelled.
    """
    if request_only:
        flow = cast(Flow, await shell.ask("flow.request_cancel", {"flow_id": flow_id}))
        shell.show(flow, f"{styled(flow.status)} [dim](cancel requested)[/]")
        return
    request = {
        "flow_id": flow_id,
        "policy": policy,
        "reason": reason,
        "wait": wait,
        "wait_ms": wait_ms,
        "grace_ms": grace_ms,
    }
    timeout = LONG_S + (wait_ms / 1000 if wait else 0)
    reply = cast(FlowCancelled, await shell.ask("flow.cancel", request, timeout=timeout))
    count = reply.member_count or len(reply.member_execution_ids)
    shell.show(reply, f"{styled(reply.result)} [dim]{count} member{'' if count == 1 else 's'}[/]")
    if reply.result == "partially_cancelled":
        raise Problem(f"{len(reply.failed_member_execution_ids or [])} members have not stopped yet")


@app.command
async def steps(
    flow_id: str, /, *, limit: int = 1000, cursor: str | None = None, shell: ShellArgument
) -> None:
    """Show a flow's steps, oldest first: observations of a mirrored flow, members of a managed one.

    Parameters
    ----------
    flow_id
        The flow's id.
    limit
        How many at most, up to 1000.
    cursor
        The cursor printed by an earlier list, to go on after it.
    """
    request = {"flow_id": flow_id, "limit": limit, "cursor": cursor}
    page = cast(Page[Step], await shell.ask("flow.steps", request, timeout=LONG_S))
    rows = (
        (escape(step.run_id), escape(step.task), styled(step.status), step.runtime, clock(step.updated_at))
        for step in page.items
    )
    shell.show_page(page, listing(("run", "task", "status", "runtime", "updated"), rows))


def flow_facts(flow: Flow) -> Any:
    """Format a flow for people."""
    return facts(
        {
            "flow": flow.flow_id,
            "goal": escape(flow.goal),
            "status": styled(flow.status, "cancel requested" if flow.cancel_requested else None),
            "kind": flow.kind,
            "members": _counts(flow),
            "owner": escape(flow.owner),
            "controller": escape(flow.controller_id),
            "origin": escape(flow.requester_origin or ""),
            "step": escape(flow.current_step or ""),
            "waits for": flow.wait,
            "revision": f"{flow.revision} (graph {flow.graph_revision})",
            "created": clock(flow.created_at),
            "updated": clock(flow.updated_at),
            "finished": clock(flow.finished_at),
            "state": escape(payload(flow.raw_state)),
        }
    )


def _counts(flow: Flow) -> str:
    return ", ".join(f"{count} {styled(state)}" for state, count in flow.counts.items() if count)


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"


def _owner() -> str:
    """Return the name of the person at the terminal, as a token: other characters become `_`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return "cli"
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:128] or "cli"
