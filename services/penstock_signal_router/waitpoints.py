"""waitpoint.get, .list, .close and .rotate_secret, signal.list: waitpoints as an operator sees them."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.machine import Machine, pages
from penstock.machine.conditions import as_written, missing_signals
from penstock.machine.op import Op
from penstock.machine.ops import signal_router as ops
from penstock.messages.signals import (
    ResumedBy,
    SecretRotated,
    SignalList,
    Waitpoint,
    WaitpointClose,
    WaitpointGet,
    WaitpointList,
    WaitpointRotateSecret,
)
from penstock_signal_router.tokens import Tokens

_STATUS: Final[dict[str, Literal["pending", "active", "closed"]]] = {"pending": "pending", "open": "active"}


class Waitpoints:
    """Handlers of the verbs about waitpoints. No reply contains a token."""

    def __init__(self, machine: Machine, tokens: Tokens) -> None:
        self._machine = machine
        self._tokens = tokens

    async def get(self, call: Call[WaitpointGet]) -> Sequence[Any]:
        found = await self._machine.run_many([ops.WaitpointGet.of(item) for item in call.items])
        return [each if isinstance(each, PenstockError) else _shown(each) for each in found]

    async def list(self, call: Call[WaitpointList]) -> Sequence[Any]:
        item, op = call.items[0], ops.WaitpointList
        if item.execution_id is not None:
            partition = partition_of(item.execution_id)
            page = await pages.one(self._machine, op, item, "waitpoint_id", partition)
        else:
            page = await pages.newest(self._machine, op, item, "waitpoint_id")
        return [{"items": [_shown(each) for each in page["items"]], "cursor": page["cursor"]}]

    async def signals(self, call: Call[SignalList]) -> Sequence[Any]:
        return await signal_pages(self._machine, ops.SignalList, call.items)

    async def close(self, call: Call[WaitpointClose]) -> Sequence[Any]:
        return [_shown(await self._machine.run(ops.WaitpointClose.of(call.items[0])))]

    async def rotate_secret(self, call: Call[WaitpointRotateSecret]) -> Sequence[Any]:
        key_id, past, until = await self._tokens.rotate(call.items[0].grace_ms)
        return [SecretRotated(key_id=key_id, previous_key_id=past, previous_valid_until=until)]


async def signal_pages(
    machine: Machine,
    op: type[ops.SignalList | ops.ResumedBy],
    asked: Sequence[SignalList | ResumedBy],
) -> list[Any]:
    """Return a page of signals, or the error, for each request. A page's cursor counts the signals up to its end."""
    skips = [int(item.cursor or 0) for item in asked]
    questions: list[Op[Any]] = [op.of(item, skip=skip) for item, skip in zip(asked, skips, strict=True)]
    replies = await machine.run_many(questions)
    return [
        reply
        if isinstance(reply, PenstockError)
        else {"items": reply.items, "cursor": str(skip + len(reply.items)) if reply.more else None}
        for skip, reply in zip(skips, replies, strict=True)
    ]


def _shown(kept: ops.WaitpointKept) -> Waitpoint:
    status = _STATUS.get(kept.state, "closed")
    active = status == "active"
    return Waitpoint(
        waitpoint_id=kept.waitpoint_id,
        execution_id=kept.execution_id,
        waitpoint_key=kept.key,
        status=status,
        condition=as_written(kept.condition) if kept.condition else None,
        received={name: of["n"] for name, of in kept.tally.items()},
        missing=missing_signals(kept.condition, kept.tally) if active else [],
        created_at=kept.created_at,
        expires_at=kept.expires_at,
    )
