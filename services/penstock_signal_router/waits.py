"""waitpoint.create, lease.suspend and signal.resumed_by: what a worker does about signals."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.common import Fence
from penstock.messages.signals import LeaseSuspend, ResumedBy, WaitpointCreate
from penstock.store import Store
from penstock_signal_router.conditions import compiled
from penstock_signal_router.tokens import Facts, Ring, Tokens

DEFAULT_KEY = "default"


class Waits:
    """Handlers of the verbs that carry a fence."""

    def __init__(self, store: Store, tokens: Tokens) -> None:
        self._store = store
        self._tokens = tokens

    async def create(self, call: Call[WaitpointCreate]) -> Sequence[Any]:
        # First, so that nothing is made that no token could be given for.
        ring = await self._tokens.ring()
        replies = await self._store.call_many(
            [_command("create", item, id=self._new_id(item)) for item in call.items]
        )
        return [reply if isinstance(reply, PenstockError) else _created(ring, reply) for reply in replies]

    async def suspend(self, call: Call[LeaseSuspend]) -> Sequence[Any]:
        ring = await self._tokens.ring()
        commands = [_suspension(item, self._new_id(item)) for item in call.items]
        replies = iter(
            await self._store.call_many([each for each in commands if not isinstance(each, PenstockError)])
        )
        results = [each if isinstance(each, PenstockError) else next(replies) for each in commands]
        return [
            result if isinstance(result, PenstockError) else _suspended(ring, result) for result in results
        ]

    def _new_id(self, item: Fence) -> str:
        """An id for a waitpoint: it lives where its execution does."""
        return self._store.new_id(partition_of(item.execution_id))

    async def resumed_by(self, call: Call[ResumedBy]) -> Sequence[Any]:
        replies = await self._store.call_many(
            [_command("resumed_by", item, skip=int(item.cursor or 0)) for item in call.items]
        )
        return [
            reply if isinstance(reply, PenstockError) else _page(item, reply)
            for item, reply in zip(call.items, replies, strict=True)
        ]


def _command(op: str, item: Fence, **more: Any) -> tuple[int, str, dict[str, Any]]:
    return partition_of(item.execution_id), op, {**msgspec.structs.asdict(item), **more}


def _suspension(item: LeaseSuspend, new_id: str) -> tuple[int, str, dict[str, Any]] | PenstockError:
    try:
        condition = compiled(item.condition)
    except PenstockError as error:
        return error
    key = item.waitpoint_key or DEFAULT_KEY
    return _command("suspend", item, condition=condition, waitpoint_key=key, id=new_id)


def _created(ring: Ring, reply: dict[str, Any]) -> dict[str, Any]:
    facts = _facts(reply)
    return {
        "waitpoint_id": facts.waitpoint_id,
        "token": ring.mint(facts),
        "expires_at": reply["expires_at"],
    }


def _suspended(ring: Ring, reply: dict[str, Any]) -> dict[str, Any]:
    if reply["outcome"] != "suspended":
        _fill(reply.get("items", ()))
        return reply
    facts = _facts(reply)
    return {
        "outcome": "suspended",
        "suspension_id": reply["suspension_id"],
        "waitpoint_id": facts.waitpoint_id,
        "token": ring.mint(facts),
    }


def _facts(reply: dict[str, Any]) -> Facts:
    return Facts(*(reply[name] for name in Facts._fields))


def _page(item: ResumedBy, reply: dict[str, Any]) -> dict[str, Any]:
    items: list[dict[str, Any]] = list(reply["items"])
    _fill(items)
    end = int(item.cursor or 0) + len(items)
    return {"items": items, "cursor": str(end) if reply.get("more") else None}


def _fill(items: Iterable[dict[str, Any]]) -> None:
    """What the state machine leaves out is null on the wire."""
    for item in items:
        item.setdefault("payload", None)
        item.setdefault("source", None)
