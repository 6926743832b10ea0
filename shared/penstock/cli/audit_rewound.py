"""`penstock audit rewound`: what was lost when Valkey fell behind the audit trail."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import msgspec
from msgspec import Struct
from nats.aio.client import Client as Nats
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from rich.markup import escape

from penstock import audit
from penstock.bus.streams import AUDIT, stream_name
from penstock.cli.audit import no_stream
from penstock.cli.output import clock, emit_json, listing, styled
from penstock.cli.shell import Shell, ShellArgument
from penstock.client import AuditEvent, Client
from penstock.errors import PenstockError
from penstock.ids import in_partition

TOGETHER: Final = 500
"""So many executions are asked for at once."""


class Affected(Struct, kw_only=True):
    """An entity of which events are lost. trail: the state that the trail says it reached, if the last lost event says
    one; state: that of now, None if Valkey does not have it (or it is neither execution nor flow)."""

    entity: str
    id: str
    lost: list[str]
    at: int
    trail: str | None
    state: str | None = None


class Rewind(Struct, kw_only=True, rename={"from_": "from"}):
    """One event `state_rewound`, with the entities that it affects."""

    at: int
    from_: str | None
    to: str | None
    data: dict[str, Any]
    affected: list[Affected]


async def rewound(*, limit: int = 1000, shell: ShellArgument) -> None:
    """List what Valkey has lost although it was acknowledged, as the promotion of a replica that lagged brings about.

    For each event state_rewound: the executions, flows and other entities whose events are in the audit trail, but not
    in Valkey; the state that they had reached, and the one that they are in now. Work that had ended is done again,
    and what no longer exists must be created anew by whoever wants it.

    Parameters
    ----------
    limit
        Most entities to list for each event [1000].
    """
    async with shell.client() as client:
        try:
            found = [
                await _rewind(client, shell.root, event, limit)
                async for event in _events(client.nats, shell.root)
            ]
        except NotFoundError:
            raise no_stream(shell.root) from None
    if not shell.json and not found:
        shell.console.print("Valkey has never fallen behind the audit trail")
        return
    if shell.json:
        emit_json({"items": found})
        return
    for rewind in found:
        _print(shell, rewind)


def last_rewind(nats: Nats, root: str) -> Any:
    """Return a coroutine of the newest event state_rewound as the stream holds it; NotFoundError if there is none."""
    js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
    return js.get_last_msg(stream_name(root, AUDIT), _subject(root))


def _subject(root: str) -> str:
    return f"{root}.audit.default.{audit.PARTITION}.{audit.REWOUND}"


async def _events(nats: Nats, root: str) -> AsyncIterator[AuditEvent]:
    js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
    stream = stream_name(root, AUDIT)
    seq = max((await js.stream_info(stream)).state.first_seq, 1)
    while True:
        try:
            message: RawStreamMsg = await js.get_msg(stream, seq, subject=_subject(root), next=True)
        except NotFoundError:
            return
        yield msgspec.json.decode(message.data or b"", type=AuditEvent)
        seq = (message.seq or seq) + 1


async def _rewind(client: Client, root: str, event: AuditEvent, limit: int) -> Rewind:
    affected: dict[tuple[str, str], Affected] = {}
    data = event.data
    if data["from_seq"] is not None:
        pages = audit.pages(client.nats, stream_name(root, AUDIT), data["from_seq"], data["to_seq"])
        async for page in pages:
            for _, body in page:
                if audit.unseal(body) is not None:
                    _add(affected, msgspec.json.decode(body, type=AuditEvent), data["partition"], limit)
    listed = list(affected.values())
    for begin in range(0, len(listed), TOGETHER):
        await asyncio.gather(*(_look(client, each) for each in listed[begin : begin + TOGETHER]))
    return Rewind(at=event.at, from_=event.from_, to=event.to, data=data, affected=listed)


def _add(affected: dict[tuple[str, str], Affected], event: AuditEvent, partition: int, limit: int) -> None:
    if event.entity == audit.PARTITION or not in_partition(event.id, partition):
        return
    key = (event.entity, event.id)
    if key not in affected:
        if len(affected) >= limit:
            return
        affected[key] = Affected(entity=event.entity, id=event.id, lost=[], at=event.at, trail=None)
    each = affected[key]
    each.lost.append(event.event)
    each.at = event.at
    each.trail = event.to or each.trail


async def _look(client: Client, each: Affected) -> None:
    """Ask for the state that an execution or a flow is in now."""
    try:
        if each.entity == "execution":
            record = await client.call("execution.get", {"execution_id": each.id})
            each.state = cast(Any, record).state
        elif each.entity == "flow":
            each.state = cast(Any, await client.call("flow.get", {"flow_id": each.id})).status
    except PenstockError as error:
        if error.error_class != "not_found":
            raise


def _print(shell: Shell, rewind: Rewind) -> None:
    data = rewind.data
    least = "" if data["whole"] else "at least "
    shell.console.print(
        f"[dim]{clock(rewind.at)}[/] partition {data['partition']}: Valkey had fallen back from {rewind.from_} to"
        f" {rewind.to}; lost are {least}{data['events']} events of {data['executions']} executions and others",
        soft_wrap=True,
        highlight=False,
    )
    rows = (
        (each.entity, each.id, _state(each.trail), _now(each), escape(", ".join(each.lost)))
        for each in rewind.affected
    )
    shell.console.print(listing(("entity", "id", "it was", "it is", "lost events"), rows))


def _now(each: Affected) -> str:
    if each.entity in ("execution", "flow"):
        return _state(each.state) or "gone"
    return ""


def _state(state: str | None) -> str:
    return styled(state) if state else ""
